"""Videos as they lie on disk, classified or not: files that PyAV decodes, or folders of frames.

PyAV is the extra `video`: it is imported when the first file is opened.
"""

import contextlib
import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from stjax.data import augment, clips
from stjax.data.records import OpenedLate, Record

Clip = UInt8[np.ndarray, "t h w 3"]
Frame = UInt8[np.ndarray, "h w 3"]

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v")
IMAGES = (".jpg", ".jpeg", ".png")
# Videos in a row that cannot be read before a training run gives up.
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video and its class.

    Attributes:
        path: a file, or a folder of frames.
        label: number of the class.
        frames: how many there are; 0 asks the file.
    """

    path: pathlib.Path
    label: int
    frames: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class VideoClips(OpenedLate):
    """Clips of the videos that a folder or a label file names; its files are opened late.

    A training clip is drawn by (seed, index, place), the place being that in the sequence of all
    batches (`at`): the same record looks otherwise each time it comes. A test clip is the index's.

    In training a video that cannot be read is replaced by the one after it, with a warning. In
    testing every video is opened first, and those that cannot be read are left out and counted.

    Attributes:
        source, root, classes, frames, stride, size, repeats, augment, flip, views, crops, seed:
            as in `stjax.data.recognition.load`.
        training: which of the two sets, drawn as it is for training.
        count: at most so many videos, from the first; 0: all.
    """

    source: str
    classes: int
    frames: int
    size: int
    training: bool
    root: str = ""
    stride: int = 1
    count: int = 0
    repeats: int = 1
    augment: str = ""
    flip: bool = False
    views: int = 1
    crops: int = 1
    seed: int = 0

    def __post_init__(self):
        augment.crop_boxes(1, 1, self.crops)
        if self.augment:
            augment.RandAugment.named(self.augment)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        """The record of a video as it is drawn for a place in the sequence of batches.

        Raises:
            ValueError: in training, ten videos in a row that cannot be read; in testing, this one.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        if self.training:
            train = lambda entry: self._train(entry, index, place)
            video, entry = first_readable(self.entries, index, train)
        else:
            entry = self.entries[index]
            video = self._test(entry)
        return {"video": video, "label": np.int32(entry.label), "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without a file."""
        views = self.repeats if self.training else self.views * self.crops
        shape = (*[views] * (views > 1), self.frames, self.size, self.size, 3)
        zero = np.int32(0)
        return {"video": np.broadcast_to(np.uint8(0), shape), "label": zero, "id": zero}

    @functools.cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The videos of this set, checked; read when they are first asked for."""
        kind, _, name = self.source.partition(":")
        if kind == "folders":
            entries = in_folders(pathlib.Path(name), self.training)
        else:
            lists = name.split(",")
            if len(lists) != 2:
                raise ValueError(f"data.source: {self.source!r} does not name two lists")
            entries = listed(pathlib.Path(lists[not self.training]), pathlib.Path(self.root))
        wrong = [entry for entry in entries if not 0 <= entry.label < self.classes]
        if wrong:
            raise ValueError(
                f"{self.source}: {len(wrong)} of {len(entries)} labels are not below "
                f"{self.classes}, first {wrong[0].label} of {wrong[0].path}"
            )
        entries = entries[: self.count or None]
        return entries if self.training else readable(entries)

    def _train(self, entry: Entry, index: int, place: int) -> UInt8[np.ndarray, "..."]:
        rng = np.random.default_rng((self.seed, index, place))
        clip = read(entry, lambda length: self._sample(length, rng=rng))
        operations = [augment.RandAugment.named(self.augment)] if self.augment else []
        copies = [
            augment.augmented(clip, self.size, operations, self.flip, rng)
            for _ in range(self.repeats)
        ]
        return np.stack(copies) if self.repeats > 1 else copies[0]

    def _test(self, entry: Entry) -> UInt8[np.ndarray, "..."]:
        views = range(self.views)
        frames = lambda length: np.concatenate(
            [self._sample(length, view=view, views=self.views) for view in views]
        )
        whole = read(entry, frames)
        boxes = augment.crop_boxes(*whole.shape[1:3], self.crops)
        shown = [
            augment.crop(clip, box, self.size)
            for clip in np.split(whole, self.views)
            for box in boxes
        ]
        return np.stack(shown) if len(shown) > 1 else shown[0]

    def _sample(self, length: int, **options: Any) -> Int[np.ndarray, " frames"]:
        if self.stride:
            return clips.dense(length, self.frames, self.stride, **options)
        return clips.segments(length, self.frames, **options)


def listed(path: pathlib.Path, root: pathlib.Path) -> tuple[Entry, ...]:
    """Reads a label file: lines "path,label" or "path label" (Kinetics), or "name frames label".

    The third form (Something-Something) names folders of frames, or files.

    Raises:
        FileNotFoundError: no such list.
        ValueError: a line of another form; videos that are not there, counted; an empty list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of videos")
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line.strip(), root))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not 'path,label', 'path label' or "
                "'name frames label'"
            ) from None
    if not entries:
        raise ValueError(f"{path}: no videos")
    missing = [entry.path for entry in entries if not entry.path.exists()]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(entries)} videos are not there, first {missing[0]}"
        )
    return tuple(entries)


def in_folders(root: pathlib.Path, training: bool) -> tuple[Entry, ...]:
    """Videos in a folder a class, numbered in the order of their names.

    Below folders "train" and "test" if there are such; else every sixth video of a class is for
    testing.

    Raises:
        FileNotFoundError: no such folder, or no videos below it.
        ValueError: "train" and "test" that hold other classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of videos")
    split = (root / "train").is_dir() and (root / "test").is_dir()
    if split:
        names = [[p.name for p in _folders(root / part)] for part in ("train", "test")]
        if names[0] != names[1]:
            differ = sorted(set(names[0]) ^ set(names[1]))
            raise ValueError(f"{root}: train and test hold other classes: {', '.join(differ)}")
        root = root / ("train" if training else "test")
    entries = []
    for label, folder in enumerate(_folders(root)):
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not split:
            files = [p for k, p in enumerate(files) if (k % 6 == 5) != training]
        entries += [Entry(path, label) for path in files]
    if not entries:
        raise FileNotFoundError(f"{root}: no videos in folders of classes ({', '.join(SUFFIXES)})")
    return tuple(entries)


def readable(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Those whose first frame can be read, with a warning that counts the others.

    Raises:
        ValueError: none of them can be.
    """
    good, errors = [], []
    for entry in entries:
        try:
            read(entry, lambda length: np.zeros(1, int))
            good.append(entry)
        except (ValueError, OSError) as error:
            errors.append(error)
    if not good:
        raise ValueError(f"none of {len(entries)} videos can be read, first: {errors[0]}")
    if errors:
        warnings.warn(
            f"{len(errors)} of {len(entries)} videos cannot be read and are left out, first: "
            f"{errors[0]}",
            stacklevel=2,
        )
    return tuple(good)


def first_readable(
    entries: Sequence[Entry], index: int, read: Callable[[Entry], Any]
) -> tuple[Any, Entry]:
    """What `read` gives of the first entry from `index` on that can be read, and that entry.

    The others are warned of.

    Raises:
        ValueError: ten in a row that cannot be read.
    """
    for k in range(min(_TRIES, len(entries))):
        entry = entries[(index + k) % len(entries)]
        try:
            return read(entry), entry
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}; another clip is taken", stacklevel=3)
            last = error
    raise ValueError(f"{k + 1} videos in a row cannot be read, the last: {last}")


def read(
    entry: Entry,
    sample: Callable[[int], Int[np.ndarray, " n"]],
    each: Callable[[Frame], Frame] = lambda frame: frame,
) -> Clip:
    """The frames of a video that `sample` chooses by its length, in its order.

    Args:
        each: what is done to a frame as soon as it is read, such as shrinking it.

    Raises:
        ValueError, OSError: one line that names the file.
    """
    if entry.path.is_dir():
        return _from_images(entry, sample, each)
    return _decoded(entry, sample, each)


def frame_count(path: pathlib.Path) -> int:
    """How many frames a file says that it has; 0: it does not say. Errors as `frame_rate`."""
    with _stream(path) as (_, stream):
        return stream.frames


def frame_times(path: pathlib.Path) -> Int[np.ndarray, " frames"]:
    """When each frame is shown, in the stream's units, without decoding; errors as `frame_rate`."""
    with _stream(path) as (container, stream):
        packets = [p for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        return np.sort(np.array([packet.pts for packet in packets], np.int64))


def frames_at(
    path: pathlib.Path,
    times: Int[np.ndarray, " frames"],
    wanted: Int[np.ndarray, " n"],
    each: Callable[[Frame], Frame] = lambda frame: frame,
) -> Clip:
    """Frames by their numbers, in rising order, decoded from the key frame before the first.

    Args:
        times: of all frames, `frame_times`.
        each: what is done to a frame as soon as it is read, such as shrinking it.

    Raises:
        ValueError, OSError: one line that names the file.
    """
    if wanted[-1] >= len(times):
        raise ValueError(f"{path}: no frame {wanted[-1]} among {len(times)}")
    shown = times[wanted].tolist()
    for start in (shown[0], None):
        kept = {}
        with _stream(path) as (container, stream):
            stream.thread_type = "AUTO"
            if start is not None:
                container.seek(start, stream=stream)
            for frame in container.decode(stream):
                if frame.pts in shown:
                    kept[frame.pts] = each(frame.to_ndarray(format="rgb24"))
                if frame.pts is not None and frame.pts >= shown[-1]:
                    break
        # In an open group of pictures the key frame may be shown after those that follow it.
        if len(kept) == len(shown):
            if len({frame.shape for frame in kept.values()}) > 1:
                raise ValueError(f"{path}: frames {wanted[0]} to {wanted[-1]} differ in size")
            return np.stack([kept[time] for time in shown])
    raise ValueError(f"{path}: frames {wanted[0]} to {wanted[-1]} cannot all be decoded")


def frame_rate(path: pathlib.Path) -> float:
    """Frames a second, on average.

    Raises:
        ValueError, OSError: one line that names the file.
    """
    with _stream(path) as (_, stream):
        if not stream.average_rate:
            raise ValueError(f"{path}: does not say how many frames a second it has")
        return float(stream.average_rate)


def _entry(line: str, root: pathlib.Path) -> Entry:
    if "," in line:
        path, label = line.rsplit(",", 1)
        return Entry(root / path, int(label))
    fields = line.rsplit(maxsplit=2)
    if len(fields) == 3 and fields[1].isdigit():
        return Entry(root / fields[0], int(fields[2]), int(fields[1]))
    path, label = line.rsplit(maxsplit=1)
    return Entry(root / path, int(label))


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in root.iterdir() if p.is_dir())


def _from_images(entry: Entry, sample: Callable, each: Callable) -> Clip:
    files = sorted(p for p in entry.path.iterdir() if p.suffix.lower() in IMAGES)
    if not files or len(files) < entry.frames:
        raise ValueError(f"{entry.path}: {len(files)} frames, {entry.frames or 1} expected")
    wanted = sample(entry.frames or len(files))
    open_ = lambda place: np.asarray(Image.open(files[place]).convert("RGB"))
    decode = functools.cache(lambda place: each(open_(place)))
    return np.stack([decode(place) for place in wanted.tolist()])


def _decoded(entry: Entry, sample: Callable, each: Callable) -> Clip:
    with _stream(entry.path) as (container, stream):
        stream.thread_type = "AUTO"
        length = entry.frames or stream.frames
        if not length:  # the container does not say
            length = sum(1 for _ in container.decode(stream))
            container.seek(0)
        if not length:
            raise ValueError(f"{entry.path}: no frames")
        wanted = sample(length).tolist()
        kept, last = {}, max(wanted)
        for place, frame in enumerate(container.decode(stream)):
            if place in wanted:
                kept[place] = each(frame.to_ndarray(format="rgb24"))
            if place >= last:
                break
    if len(kept) < len(set(wanted)):
        raise ValueError(f"{entry.path}: {length} frames announced, not all of them there")
    return np.stack([kept[place] for place in wanted])


@contextlib.contextmanager
def _stream(path: pathlib.Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and its video stream."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no video stream")
            yield container, container.streams.video[0]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded ({error.strerror})") from None


def _av():
    try:
        import av
    except ImportError:
        raise ValueError(
            "video files are decoded by PyAV, which is not installed: pip install 'stjax[video]'"
        ) from None
    return av
