"""Videos, what people thought of their quality, and the questions a language model is asked of it.

A record holds a video as "frames" (s, h, w, c), a key frame a second, and "clips" (s, f, h, w, c),
a clip a second, uint8; its mean opinion score "mos", 0 to 100; and, as tokens, "prompts" (2, p)
and "answers" (2, a): what is asked for the score and for the level, and what is to be said.
"""

import csv
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from stjax.data import Splits, quality_prompts
from stjax.data.records import OpenedLate, Record, Source
from stjax.data.tokenizer import Tokenizer
from stjax.data.tokenizer import load as load_tokenizer
from stjax.data.video_files import SUFFIXES, Entry, first_readable, frame_rate, read, readable
from stjax.metrics.quality import level, level_cuts, score_text

# How the sets' tables call their columns.
NAMES = ("name", "video_name", "flickr_id", "vid", "filename", "file_name", "file")
SCORES = ("mos", "mos full")


@dataclasses.dataclass(frozen=True, eq=False)
class MadeVideos:
    """Textures that move, made worse in space by a share a and in time by b; record i is pure.

    The score is 100 - 40 a - 40 b and a normal error of 2, within [1, 99.9]. In space a video is
    blurred, or noise is added to every frame; in time it freezes, or its camera shakes. Which of
    either, the texture's roughness and contrast, and its speed are drawn for each video, so that
    no statistic of pixels alone tells the score; and frames of the texture are alike wherever it
    has moved to, so that no single frame tells anything of b.

    Attributes:
        size: height and width of a frame, in pixels.
        seconds, frames: how many seconds there are, of how many frames each.
        count: how many videos.
        channels: of a frame, all alike.
        seed: tells sets of videos apart.
    """

    size: int
    seconds: int
    frames: int
    count: int
    channels: int = 1
    seed: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rng, (a, b), mos = self._drawn(index)
        clips = _textures(rng, a, b, self.size, self.seconds * self.frames)
        clips = clips.reshape(self.seconds, self.frames, self.size, self.size, 1)
        clips = np.repeat(clips, self.channels, -1)
        return {"frames": clips[:, 0], "clips": clips, "mos": mos, "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        return _spec(self.seconds, self.frames, self.size, self.channels)

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        """Of the first thousand videos."""
        return np.array([self._drawn(index)[2] for index in range(min(len(self), 1000))])

    def _drawn(self, index):
        rng = np.random.default_rng((*self.seed, index))
        a, b = rng.uniform(size=2)
        mos = np.clip(100 - 40 * a - 40 * b + 2 * rng.standard_normal(), 1, 99.9)
        return rng, (a, b), np.float32(mos)


@dataclasses.dataclass(frozen=True, eq=False)
class RatedVideos(OpenedLate):
    """Video files that a table of scores names (LSVQ, KoNViD-1k, LIVE-VQC, YouTube-UGC, ...).

    Second i has the frames from i round(frames a second) on; where there are fewer seconds or
    frames than asked for, the last one is repeated; further ones are left out. Key frames, the
    first of their seconds, are brought to CLIP's size as CLIP does (the shorter side, bicubic; the
    middle), clips are squeezed to a square.

    Videos that cannot be read are left out and counted in testing; in training the next is taken.

    Attributes:
        table: a csv file with a header; see `ratings`.
        root: folder that the videos' names are relative to.
        scale: of the table's scores, to 0 to 100.
        size, seconds, frames: as of `MadeVideos`.
        training: which of the two sets it is.
        count: at most so many videos, from the first; 0: all.
    """

    table: str
    root: str
    scale: float
    size: int
    seconds: int
    frames: int
    training: bool
    count: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        if self.training:
            record, entry = first_readable(self._entries, index, self._read)
        else:
            entry = self._entries[index]
            record = self._read(entry)
        return {**record, "mos": np.float32(self._rated[1][entry.label]), "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        return _spec(self.seconds, self.frames, self.size, 3)

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        return np.array([self._rated[1][entry.label] for entry in self._entries])

    @functools.cached_property
    def _rated(self):
        return ratings(pathlib.Path(self.table), pathlib.Path(self.root), self.scale)

    @functools.cached_property
    def _entries(self):
        # An entry's "label" is its place in the table.
        entries = [Entry(path, place) for place, path in enumerate(self._rated[0])]
        entries = entries[: self.count or None]
        return tuple(entries) if self.training else readable(entries)

    def _read(self, entry: Entry) -> Record:
        rate = max(round(frame_rate(entry.path)), 1)
        starts = lambda length: rate * np.minimum(
            np.arange(self.seconds), max(length // rate, 1) - 1
        )
        within = lambda length: np.minimum(
            starts(length)[:, None] + np.arange(self.frames), length - 1
        ).ravel()
        clips = read(entry, within, lambda frame: _squeezed(frame, self.size))
        frames = read(entry, starts, lambda frame: _cropped(frame, self.size))
        return {"frames": frames, "clips": clips.reshape(self.seconds, -1, *clips.shape[1:])}


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """Videos with the questions asked of them, drawn by (seed, index), and by place in training.

    Attributes:
        videos: a source whose records have "mos".
        tokenizer: of the texts.
        cuts: between levels, see `stjax.metrics.quality.level`.
        described: whether a question comes after a description of the task.
        drawn: whether questions are others each time a video comes.
        seed: of the questions.
    """

    videos: Source
    tokenizer: Tokenizer
    cuts: tuple[float, float]
    described: bool = False
    drawn: bool = False
    seed: int = 0

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        rng = np.random.default_rng((self.seed, index, place if self.drawn else 0))
        record = self.videos[index]
        score = float(record["mos"])
        draw = lambda kind: quality_prompts.draw(kind, rng, self.described)
        answers = score_text(score), level(score, self.cuts)
        return {**record, **self._tokens(list(map(draw, quality_prompts.KINDS)), answers)}

    @property
    def spec(self) -> Record:
        """A record of zeros, but for a prompt and answers."""
        return {**self.videos.spec, **self._tokens([next(quality_prompts.every())] * 2, ("", ""))}

    def _tokens(self, prompts, answers):
        encode, end = self.tokenizer.encode, [self.tokenizer.end]
        return {
            "prompts": np.stack([self._padded(encode(text), front=True) for text in prompts]),
            "answers": np.stack([self._padded(encode(text) + end) for text in answers]),
        }

    def _padded(self, tokens: list[int], front: bool = False) -> Int[np.ndarray, " n"]:
        missing = self._lengths[not front] - len(tokens)
        padding = [self.tokenizer.pad] * missing
        return np.array(padding + tokens if front else tokens + padding, np.int32)

    @functools.cached_property
    def _lengths(self) -> tuple[int, int]:
        """Of the longest prompt and of the longest answer with its end, in tokens."""
        count = lambda texts: max(len(self.tokenizer.encode(text)) for text in texts)
        answers = (score_text(88.888), score_text(100), "poor", "fair", "good")
        return count(quality_prompts.every(self.described)), 1 + count(answers)


def ratings(
    path: pathlib.Path, root: pathlib.Path, scale: float = 1.0
) -> tuple[tuple[pathlib.Path, ...], Float[np.ndarray, " n"]]:
    """The videos that a table names, and their mean opinion scores times `scale`.

    The table has a column of names, one of `NAMES`, with or without the files' suffix, and one of
    scores, one of `SCORES`; small and capital letters are alike, and other columns are not read.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no such column; a score that is none, or not above 0 and up to 100 when scaled;
            videos that are not there, counted; an empty table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of scores")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: no videos")
    name, score = (_column(path, rows[0], wanted) for wanted in (NAMES, SCORES))
    scores = []
    for number, row in enumerate(rows, start=2):
        try:
            scores.append(scale * float(row[score]))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}, line {number}: {score} {row[score]!r} is no number"
            ) from None
        if not 0 < scores[-1] <= 100:
            raise ValueError(
                f"{path}, line {number}: {score} {row[score]} times {scale:g} is not above 0 and "
                "up to 100; data.scale brings a table's scores there"
            )
    found = [_file(root / row[name]) for row in rows]
    missing = [root / row[name] for row, file in zip(rows, found) if file is None]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(rows)} videos are not there, first {missing[0]}"
        )
    return tuple(found), np.array(scores)


def load(
    source: str = "made",
    *,
    root: str = "",
    scale: float = 1.0,
    size: int = 32,
    seconds: int = 4,
    frames: int = 8,
    channels: int = 1,
    tokenizer: str = "words",
    ends: str = "<|eot_id|>",
    described: bool = False,
    cuts: tuple[float, ...] = (),
    count_train: int = 0,
    count_test: int = 0,
    seed: int = 0,
) -> tuple[Splits, Tokenizer, tuple[float, float]]:
    """Training and test videos with questions, the tokenizer, and the cuts between levels.

    Args:
        source: "made": `MadeVideos`; "tables:<training csv>,<test csv>": what tables of scores
            name (`ratings`).
        root, scale: of the tables.
        size, seconds, frames: of a video, see `MadeVideos`.
        channels: of made videos; files have three.
        tokenizer, ends: see `stjax.data.tokenizer.load`.
        described: whether prompts describe the task.
        cuts: between levels; (): the 33rd and 66th percentiles of the training scores.
        count_train, count_test: at most so many; 0: all (10,000,000 and 1,000 made ones).
        seed: of what is drawn.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, names = source.partition(":")
    sizes: dict[str, Any] = {"size": size, "seconds": seconds, "frames": frames}
    if source == "made":
        counts = (count_train or 10_000_000, count_test or 1000)
        videos = [
            MadeVideos(**sizes, count=n, channels=channels, seed=(seed, k))
            for k, n in enumerate(counts)
        ]
    elif kind == "tables" and names.count(",") == 1:
        videos = [
            RatedVideos(table, root, scale, **sizes, training=not k, count=n)
            for k, (table, n) in enumerate(zip(names.split(","), (count_train, count_test)))
        ]
    else:
        raise ValueError(
            f"unknown source {source!r}; there are made, tables:<training csv>,<test csv>"
        )
    words = load_tokenizer(
        tokenizer, [*quality_prompts.every(True), "poor", "fair", "good"], ends
    )
    cuts = cuts or level_cuts(videos[0].scores)
    train, test = (
        Questions(each, words, cuts, described, drawn=not k, seed=seed)
        for k, each in enumerate(videos)
    )
    return Splits(train, test), words, cuts


def _textures(rng, a, b, size, count) -> UInt8[np.ndarray, "count size size"]:
    rough, contrast, speed = rng.uniform((0.9, 0.15, 0.8), (1.1, 0.17, 1.0))
    blurs, freezes = rng.uniform(size=2) < 0.5
    rows, columns = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    frequency = np.hypot(rows[:, None], columns)
    waves = np.fft.rfft2(rng.standard_normal((size, size))) * np.maximum(frequency, 1e-9) ** -rough
    waves[0, 0] = 0
    waves *= contrast / np.fft.irfft2(waves, (size, size)).std()
    if blurs:
        waves *= np.exp(-2 * (np.pi * 1.5 * a * frequency) ** 2)
    times = np.arange(count)
    shake = 1.5 * (0 if freezes else b) * rng.standard_normal((count, 2))
    if freezes:
        held = (rng.uniform(size=count) < 0.8 * b) & (times > 0)
        times = np.maximum.accumulate(np.where(held, 0, times))
    angle = rng.uniform(0, 2 * np.pi)
    path = speed * times[:, None] * (np.sin(angle), np.cos(angle)) + shake
    down, along = (np.exp(-2j * np.pi * np.outer(*x)) for x in zip(path.T, (rows, columns)))
    turned = waves * down[:, :, None] * along[:, None]
    video = 0.5 + np.fft.irfft2(turned, (size, size))
    if not blurs:
        video += 0.12 * a * rng.standard_normal(video.shape)
    return np.rint(255 * np.clip(video, 0, 1)).astype(np.uint8)


def _spec(seconds, frames, size, channels):
    zeros = lambda *shape: np.broadcast_to(np.uint8(0), (*shape, size, size, channels))
    return {
        "frames": zeros(seconds), "clips": zeros(seconds, frames), "mos": np.float32(0),
        "id": np.int32(0),
    }


def _squeezed(frame, size):
    shrunk = Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(shrunk)


def _cropped(frame, size):
    image = Image.fromarray(frame)
    share = size / min(image.size)
    image = image.resize([max(int(share * n), size) for n in image.size], Image.Resampling.BICUBIC)
    left, top = ((n - size) // 2 for n in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _column(path, row, wanted):
    for column in row:
        if column is not None and column.strip().lower() in wanted:
            return column
    raise ValueError(f"{path}: columns {list(row)}, none of them of {wanted}")


def _file(path):
    """The file of this name, or of it with a suffix; None if there is none."""
    if path.is_file():
        return path
    names = (path.with_name(path.name + suffix) for suffix in SUFFIXES)
    return next((file for file in names if file.is_file()), None)
