"""Echocardiograms with masks of the left ventricle: made ones, CAMUS, EchoNet-Dynamic.

    splits = echo.load("camus:folder/of/camus_png256_10f", size=256)
    splits.train[0]  # {"video": (10, 256, 256, 1) uint8, "mask": (10, 256, 256) uint8,
                     #  "labelled": (10,) float32, "id": 0}
"""

import dataclasses
import functools
import json
import pathlib
import re

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stjax.data import Splits
from stjax.data.heart import BeatingHeart
from stjax.data.records import OpenedLate, Record, resize

_VENTRICLE = 1  # in stored masks


@dataclasses.dataclass(frozen=True)
class Study:
    """The frames of one recording in their order, and the masks of those that have one."""

    frames: tuple[pathlib.Path, ...]
    masks: tuple[pathlib.Path | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Studies(OpenedLate):
    """Clips of `length` frames of stored recordings, opened late.

    A training clip is drawn by (seed, index, place) as the published code does: it starts anywhere,
    is mirrored half of the time and turned by up to `turn` degrees. A test clip starts at the
    first frame.

    Attributes:
        layout: "camus" or "echonet", see `camus` and `echonet`.
        root: the data set's folder.
        split: "train", "val" or "test".
        turn: in training; 0: clips are shown as they are, not mirrored either.
    """

    layout: str
    root: str
    split: str
    length: int
    size: int
    turn: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> Record:
        return self._record(index, None)

    def at(self, index: int, place: int) -> Record:
        """The record as it is drawn for a place in the sequence of batches."""
        if self.split != "train":
            return self[index]
        return self._record(index, np.random.default_rng((self.seed, index, place)))

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without a file."""
        mask = np.broadcast_to(np.uint8(0), (self.length, self.size, self.size))
        labelled = np.zeros(self.length, np.float32)
        return {"video": mask[..., None], "mask": mask, "labelled": labelled, "id": np.int32(0)}

    @functools.cached_property
    def studies(self) -> tuple[Study, ...]:
        return _LAYOUTS[self.layout](pathlib.Path(self.root), self.split, self.length)

    def _record(self, index, rng):
        study = self.studies[index]
        spare = len(study.frames) - self.length
        start = 0 if rng is None else int(rng.integers(spare + 1))
        window = slice(start, start + self.length)
        frames = [_image(path) for path in study.frames[window]]
        for path, frame in zip(study.frames[window], frames):
            if frame.shape != frames[0].shape:
                raise ValueError(f"{path}: {frame.shape}, and the first frame {frames[0].shape}")
        paths = study.masks[window]
        masks = [_mask(path, frames[0].shape) for path in paths]
        video = resize(np.stack(frames)[..., None], self.size)
        mask = _nearest(np.stack(masks), self.size)
        if rng is not None and self.turn:
            mirrored, angle = rng.uniform() < 0.5, rng.uniform(-self.turn, self.turn)
            video = _turned(video[..., 0], mirrored, angle, Image.Resampling.BILINEAR)[..., None]
            mask = _turned(mask, mirrored, angle, Image.Resampling.NEAREST)
        labelled = np.array([path is not None for path in paths], np.float32)
        return {"video": video, "mask": mask, "labelled": labelled, "id": np.int32(index)}


def camus(root: pathlib.Path, split: str, length: int) -> tuple[Study, ...]:
    """CAMUS as the published code has prepared it.

    img/<patient>/0000.png ... and gt_lv/<patient>/ with masks under the names of their frames, 1
    where the ventricle is; frames may lack theirs. One file *.json lists the patients of
    "train_data", "val_data" and "test_data".

    Raises:
        ValueError, FileNotFoundError: one line that names the file or folder.
    """
    lists = sorted(root.glob("*.json"))
    if len(lists) != 1:
        raise FileNotFoundError(f"{root}: {len(lists)} files *.json; wanted one, of the splits")
    try:
        patients = json.loads(lists[0].read_text())[f"{split}_data"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{lists[0]}: no list '{split}_data' ({error!r})") from None
    return tuple(_camus_study(root, patient, length) for patient in patients)


def echonet(root: pathlib.Path, split: str, length: int) -> tuple[Study, ...]:
    """EchoNet-Dynamic as the published code has prepared it.

    <split>/img/<case>/ with `length` frames and <split>/label/<case>/ with two masks, of the first
    and the last frame, 1 where the ventricle is.

    Raises:
        ValueError, FileNotFoundError: one line that names the file or folder.
    """
    folder = root / split / "img"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    studies = []
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        frames, masks = _images(case), _images(root / split / "label" / case.name)
        if len(frames) != length:
            raise ValueError(f"{case}: {len(frames)} frames instead of {length}")
        if len(masks) != 2:
            raise ValueError(f"{masks[0].parent}: {len(masks)} masks instead of 2")
        between = (None,) * (length - 2)
        studies.append(Study(frames, (masks[0], *between, masks[1])))
    if not studies:
        raise FileNotFoundError(f"{folder}: no folders of frames")
    return tuple(studies)


def load(
    source: str = "heart",
    *,
    length: int = 10,
    size: int = 64,
    split: str = "test",
    turn: float = 0.0,
    seed: int = 0,
    count_train: int = 1_000_000,
    count_test: int = 200,
) -> Splits:
    """Training and test clips by name.

    Args:
        source: "heart": made (`stjax.data.heart`); "camus:<folder>", "echonet:<folder>": see
            `camus` and `echonet`.
        length: frames of a clip.
        size: height and width.
        split: of stored data that is tested on, "test" or "val".
        turn: stored training clips are mirrored, and turned by up to so many degrees; 0: neither.
        seed, count_train, count_test: of made clips.

    Raises:
        ValueError: an unknown source or split.
    """
    kind, _, root = source.partition(":")
    if split not in ("test", "val"):
        raise ValueError(f"data.split: {split!r} is neither 'test' nor 'val'")
    if source == "heart":
        counts = count_train, count_test
        made = (BeatingHeart(n, length, size, (seed, k)) for k, n in enumerate(counts))
        return Splits(*made)
    if kind not in _LAYOUTS or not root:
        names = ", ".join(["heart", *(f"{name}:<folder>" for name in _LAYOUTS)])
        raise ValueError(f"data.source: {source!r} is none of {names}")
    stored = functools.partial(Studies, kind, root, length=length, size=size, seed=seed)
    return Splits(stored("train", turn=turn), stored(split))


_LAYOUTS = {"camus": camus, "echonet": echonet}


def _camus_study(root, patient, length):
    frames = _images(root / "img" / patient)
    if len(frames) < length:
        raise ValueError(f"{frames[0].parent}: {len(frames)} frames, and a clip has {length}")
    masks = {path.name: path for path in _images(root / "gt_lv" / patient)}
    if strange := set(masks) - {path.name for path in frames}:
        raise ValueError(f"{masks[min(strange)]}: no frame of that name in {frames[0].parent}")
    return Study(frames, tuple(masks.get(path.name) for path in frames))


def _images(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The images of a folder by the numbers in their names."""
    number = lambda path: ([int(digits) for digits in re.findall(r"\d+", path.stem)], path.name)
    found = sorted(folder.glob("[!.]*.png"), key=number)
    if not found:
        raise FileNotFoundError(f"{folder}: no images *.png")
    return tuple(found)


def _image(path: pathlib.Path) -> UInt8[np.ndarray, "h w"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: no image that can be read ({error})") from None


def _mask(path, shape) -> UInt8[np.ndarray, "h w"]:
    """1 where the ventricle is; zeros without a file."""
    if path is None:
        return np.zeros(shape, np.uint8)
    stored = _image(path)
    if stored.shape != shape:
        raise ValueError(f"{path}: mask {stored.shape} of frames {shape}")
    if stored.any() and not (stored == _VENTRICLE).any():
        values = np.unique(stored)[:5].tolist()
        raise ValueError(f"{path}: values {values}; {_VENTRICLE} would be the ventricle")
    return (stored == _VENTRICLE).astype(np.uint8)


def _nearest(masks, size):
    rows, columns = (
        ((np.arange(size) + 0.5) * side / size).astype(int) for side in masks.shape[1:]
    )
    return masks[:, rows[:, None], columns]


def _turned(frames, mirrored, angle, how):
    frames = frames[..., ::-1] if mirrored else frames
    return np.stack([np.asarray(Image.fromarray(x).rotate(angle, how)) for x in frames])
