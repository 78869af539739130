"""Videos to find anomalies in: training on normal ones, frames of test ones labelled.

    splits = anomaly.load("ucsd:folder/of/UCSDped2", context=4, size=256, channels=3)
    splits.test[0]  # {"video": (5, 256, 256, 3) uint8, "label": 0, "clip": 0, "frame": 4, "id": 0}
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, UInt8

from stjax.data.records import OpenedLate, Record, resize
from stjax.data.surveillance import Surveillance

_IMAGES = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp")


class Videos(Protocol):
    """Clips of `lengths` frames, read in parts."""

    lengths: tuple[int, ...]

    def frames(self, clip: int, start: int, stop: int) -> UInt8[np.ndarray, "t h w c"]: ...

    def labels(self, clip: int) -> Bool[np.ndarray, " length"]:
        """Which frames are abnormal."""


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(OpenedLate):
    """All runs of context + 1 frames, clip by clip in their order; the last frame is predicted.

    A record's "label" is 1 where that frame is abnormal, "clip" and "frame" say which it is.

    Attributes:
        videos: the clips.
        context: frames before the one that is predicted.
        size: height and width to average the frames to; None leaves them.
        channels: 3 repeats grey frames; None leaves them.
    """

    videos: Videos
    context: int
    size: int | None = None
    channels: int | None = None

    def __post_init__(self):
        short = [k for k, length in enumerate(self.videos.lengths) if length <= self.context]
        if short:
            raise ValueError(
                f"clip {short[0]}: {self.videos.lengths[short[0]]} frames, and context + 1 is "
                f"{self.context + 1}"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        clip = int(np.searchsorted(self._ends, index, side="right"))
        start = index - (int(self._ends[clip - 1]) if clip else 0)
        frames = self.videos.frames(clip, start, start + self.context + 1)
        if self.size is not None:
            frames = resize(frames, self.size)
        if self.channels not in (None, frames.shape[-1]):
            if frames.shape[-1] != 1:
                raise ValueError(f"clip {clip}: {frames.shape[-1]} channels, not {self.channels}")
            frames = np.repeat(frames, self.channels, axis=-1)
        last = start + self.context
        return {
            "video": frames,
            "label": np.int32(self._labels(clip)[last]),
            "clip": np.int32(clip),
            "frame": np.int32(last),
            "id": np.int32(index),
        }

    @functools.cached_property
    def _ends(self):
        return np.cumsum([length - self.context for length in self.videos.lengths])

    @functools.cached_property
    def _known(self):
        return {}

    def _labels(self, clip):
        if clip not in self._known:
            self._known[clip] = self.videos.labels(clip)
        return self._known[clip]


@dataclasses.dataclass(frozen=True, eq=False)
class FrameFolders:
    """A folder of images a clip, in the order of their names.

    Attributes:
        clips: paths of the images of each.
        truth: which frames are abnormal; None: none is.
    """

    clips: tuple[tuple[pathlib.Path, ...], ...]
    truth: tuple[Bool[np.ndarray, " length"], ...] | None = None

    def __post_init__(self):
        for k, labels in enumerate(self.truth or ()):
            if len(labels) != len(self.clips[k]):
                raise ValueError(
                    f"{self.clips[k][0].parent}: {len(self.clips[k])} frames and {len(labels)} "
                    "labels"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(map(len, self.clips))

    def frames(self, clip: int, start: int, stop: int) -> UInt8[np.ndarray, "t h w c"]:
        images = [_read(path) for path in self.clips[clip][start:stop]]
        for path, image in zip(self.clips[clip][start:stop], images):
            if image.shape != images[0].shape:
                raise ValueError(f"{path}: {image.shape}, and the frame before {images[0].shape}")
        return np.stack(images)

    def labels(self, clip: int) -> Bool[np.ndarray, " length"]:
        return np.zeros(self.lengths[clip], bool) if self.truth is None else self.truth[clip]


def ucsd(root: pathlib.Path) -> tuple[FrameFolders, FrameFolders]:
    """UCSD Ped1 or Ped2 as distributed (UCSD_Anomaly_Dataset.v1p2/UCSDped2), train and test.

    Train/Train001/001.tif, Test/Test001/001.tif; truth: the lines "gt_frame = [61:180];" of a file
    Test/*.m, a line a clip, in frames from 1, ends included; without one, the masks
    Test/Test001_gt/001.bmp, of which a frame is abnormal where any pixel is set.
    """
    train = _clips(root / "Train", "Train*")
    test = _clips(root / "Test", "Test*")
    lengths = tuple(map(len, test))
    scripts = sorted((root / "Test").glob("*.m"))
    if scripts:
        return FrameFolders(train), FrameFolders(test, _script(scripts[0], lengths))
    truth = []
    for clip in test:
        masks = _images(clip[0].parent.with_name(f"{clip[0].parent.name}_gt"))
        truth.append(np.array([_read(mask).any() for mask in masks]))
    return FrameFolders(train), FrameFolders(test, tuple(truth))


def frame_folders(root: pathlib.Path) -> tuple[FrameFolders, FrameFolders]:
    """The layout of Liu et al. 2018, in which Avenue and ShanghaiTech go round as frames.

    training/frames/01/0000.jpg, testing/frames/01/0000.jpg; truth: "gt" of a file *.mat beside
    them, for each clip first and last abnormal frames (2, events), from 1, ends included; or
    testing/test_frame_mask/*.npy, an array a clip, 1 where abnormal.
    """
    train = _clips(root / "training" / "frames", "*")
    test = _clips(root / "testing" / "frames", "*")
    masks = sorted((root / "testing" / "test_frame_mask").glob("*.npy"))
    tables = sorted(root.glob("*.mat"))
    if masks:
        truth = tuple(np.load(mask).astype(bool) for mask in masks)
        where = masks[0].parent
    elif tables:
        where = tables[0]
        truth = _table(where, tuple(map(len, test)))
    else:
        raise FileNotFoundError(f"{root}: neither *.mat nor testing/test_frame_mask/*.npy")
    if len(truth) != len(test):
        raise ValueError(f"{where}: truth of {len(truth)} clips for {len(test)} in testing/frames")
    return FrameFolders(train), FrameFolders(test, truth)


@dataclasses.dataclass(frozen=True)
class Splits:
    """Windows of normal videos to train on, and of labelled ones to test on."""

    train: Windows
    test: Windows


def load(
    source: str = "surveillance",
    *,
    context: int = 4,
    size: int = 32,
    channels: int | None = None,
    seed: int = 0,
    count_train: int = 100,
    length_train: int = 60,
    count_test: int = 40,
    length_test: int = 40,
) -> Splits:
    """Training and test windows by name.

    Args:
        source: "surveillance": made; "ucsd:<folder>": see `ucsd`; "frames:<folder>": see
            `frame_folders`.
        context: frames before the one that is predicted.
        size: height and width.
        channels: 3 repeats grey frames; None leaves them.
        seed, count_train, length_train, count_test, length_test: of made clips.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, folder = source.partition(":")
    if source == "surveillance":
        train = Surveillance(count_train, length_train, size, seed, 0)
        test = Surveillance(count_test, length_test, size, seed, 1, abnormal=True)
    elif kind in _LAYOUTS and folder:
        train, test = _LAYOUTS[kind](pathlib.Path(folder))
    else:
        raise ValueError(
            f"data.source: {source!r} is none of surveillance, ucsd:<folder>, frames:<folder>"
        )
    return Splits(*(Windows(videos, context, size, channels) for videos in (train, test)))


_LAYOUTS = {"ucsd": ucsd, "frames": frame_folders}


def _clips(folder: pathlib.Path, pattern: str) -> tuple[tuple[pathlib.Path, ...], ...]:
    found = [
        path for path in sorted(folder.glob(pattern))
        if path.is_dir() and not path.name.endswith("_gt")
    ]
    if not found:
        raise FileNotFoundError(f"{folder}: no folders {pattern}")
    return tuple(map(_images, found))


def _images(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    # Copies made on a Mac hold files "._001.tif" that are no images.
    found = [p for p in folder.glob("[!.]*") if p.suffix.lower() in _IMAGES]
    if not found:
        raise FileNotFoundError(f"{folder}: no images")
    return tuple(sorted(found))


def _read(path: pathlib.Path) -> UInt8[np.ndarray, "h w c"]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("L"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: no image that can be read ({error})") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _script(path: pathlib.Path, lengths: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    text = re.sub(r"%.*", "", path.read_text())
    listed = re.findall(r"gt_frame\s*=\s*\[([^\]]*)\]", text)
    if len(listed) != len(lengths):
        raise ValueError(f"{path}: gt_frame of {len(listed)} clips, and there are {len(lengths)}")
    events = [re.findall(r"(\d+)\s*:\s*(\d+)", part) for part in listed]
    return tuple(
        _marked(length, np.array(own, int).reshape(-1, 2), f"{path}, clip {k + 1}")
        for k, (own, length) in enumerate(zip(events, lengths))
    )


def _table(path: pathlib.Path, lengths: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    from scipy.io import loadmat

    stored = loadmat(path)
    if "gt" not in stored:
        raise ValueError(f"{path}: no entry 'gt'")
    cells = stored["gt"].ravel() if stored["gt"].dtype == object else [stored["gt"]]
    return tuple(
        _marked(length, np.asarray(cell, int).reshape(2, -1).T, f"{path}, clip {k + 1}")
        for k, (cell, length) in enumerate(zip(cells, lengths))
    )


def _marked(length: int, events: Sequence[Sequence[int]], where: str) -> np.ndarray:
    """Labels from first and last frames of events, from 1."""
    labels = np.zeros(length, bool)
    for first, last in events:
        if not 1 <= first <= last <= length:
            raise ValueError(f"{where}: frames {first} to {last} of {length}")
        labels[first - 1 : last] = True
    return labels
