"""One's own videos: a folder of video files and of arrays, cut into clips.

    splits = data.load("folder:my/videos", context=10, horizon=10, size=64, stride=5)
"""

import dataclasses
import functools
import pathlib
import warnings

import numpy as np
from jaxtyping import Int, Shaped

from stjax.data import arrays, video_files
from stjax.data.records import OpenedLate, Record, Size, folder, pick_name, resize

ARRAYS = (".npy", ".npz")


@dataclasses.dataclass(frozen=True, eq=False)
class Folder(OpenedLate):
    """Clips of videos that lie one in a file: PyAV's kinds, `.npy`, or `.npz`.

    A file is opened for the frames of a clip alone: arrays are mapped into memory (`.npz` that
    are compressed are read), videos are decoded from the key frame before it.

    Attributes:
        files: the videos; arrays are (t, h, w, c) or (t, h, w).
        length, step: frames of a clip, and how far they are apart.
        stride: frames between the starts of clips; 0: as many as a clip spans.
        size: height and width, or one for both, to average the frames to; None leaves them.
        key: entry of the `.npz` files; None: the only array of rank 3 or 4.
        share: which part of each video, from and to.
    """

    files: tuple[pathlib.Path, ...]
    length: int
    step: int = 1
    stride: int = 0
    size: Size | None = None
    key: str | None = None
    share: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if self.step < 1 or self.stride < 0:
            raise ValueError(f"data.step {self.step} below 1, or data.stride {self.stride} below 0")

    def __len__(self) -> int:
        return int(self._clips[1][-1])

    def __getitem__(self, index: int) -> Record:
        starts, ends = self._clips
        which = int(np.searchsorted(ends, index, side="right"))
        number = index - int(np.append(0, ends)[which])
        first = starts[which] + number * (self.stride or self._span)
        wanted = first + self.step * np.arange(self.length)
        path = self.files[which]
        if path.suffix in ARRAYS:
            frames = np.asarray(self._array(path)[wanted])
            return {"video": self._smaller(frames[..., None] if frames.ndim == 3 else frames)}
        each = lambda frame: self._smaller(frame[None])[0]
        return {"video": video_files.frames_at(path, self._times(path), wanted, each)}

    @property
    def _span(self) -> int:
        """Frames from the first of a clip to its last."""
        return self.step * (self.length - 1) + 1

    @functools.cached_property
    def _clips(self) -> tuple[list[int], Int[np.ndarray, " files"]]:
        """The first frame used of each file, and clips up to its end."""
        starts, counts, short = [], [], []
        for path in self.files:
            length = self._length(path)
            start, end = (round(length * share) for share in self.share)
            free = end - start - self._span
            if free < 0:
                short.append(f"{path}: {end - start} frames, and a clip needs {self._span}")
            starts.append(start)
            counts.append(free // (self.stride or self._span) + 1 if free >= 0 else 0)
        if len(short) == len(self.files):
            raise ValueError(short[0])
        if short:
            warnings.warn(
                f"{len(short)} of {len(self.files)} videos are too short and are left out, first "
                f"{short[0]}",
                stacklevel=2,
            )
        return starts, np.cumsum(counts)

    def _length(self, path: pathlib.Path) -> int:
        if path.suffix not in ARRAYS:
            return video_files.frame_count(path) or len(self._times(path))
        if path.suffix == ".npy":
            shape = arrays.open_array(path).shape
        else:
            shapes = arrays.members(path)
            shape = shapes[pick_name(shapes, self.key, str(path), ranks=(3, 4))]
        if len(shape) not in (3, 4) or 0 in shape:
            raise ValueError(f"{path}: shape {shape} instead of (t, h, w, c) or (t, h, w)")
        return shape[0]

    def _array(self, path: pathlib.Path) -> Shaped[np.ndarray, "..."]:
        if path.suffix == ".npy":
            return arrays.open_array(path)
        name = pick_name(arrays.members(path), self.key, str(path), ranks=(3, 4))
        return arrays.open_members(path, [name])[0]

    def _smaller(self, frames):
        return frames if self.size is None else resize(frames, self.size)

    @functools.cached_property
    def _times(self):
        return functools.lru_cache(maxsize=1024)(video_files.frame_times)


def splits(
    root: str,
    lengths: tuple[int, int],
    step: int = 1,
    stride: int = 0,
    size: Size | None = None,
    key: str | None = None,
) -> tuple[Folder, Folder]:
    """Those below train/ and test/, or else the first 5/6 of the files, or of the only file.

    Raises:
        FileNotFoundError: no such folder, or neither videos nor arrays in it.
    """
    root = folder(root)
    shares = [(0.0, 1.0)] * 2
    if (root / "train").is_dir() and (root / "test").is_dir():
        found = [_below(root / split) for split in ("train", "test")]
    else:
        files = _below(root)
        end = len(files) * 5 // 6
        found = [files[:end], files[end:]]
        if len(files) == 1:
            found, shares = [files, files], [(0.0, 5 / 6), (5 / 6, 1.0)]
    return tuple(
        Folder(files, length, step, stride, size, key, share)
        for files, length, share in zip(found, lengths, shares)
    )


def _below(root: pathlib.Path) -> tuple[pathlib.Path, ...]:
    kinds = (*ARRAYS, *video_files.SUFFIXES)
    files = tuple(sorted(p for p in root.rglob("*") if p.suffix.lower() in kinds))
    if not files:
        raise FileNotFoundError(f"{root}: neither videos nor arrays ({', '.join(kinds)})")
    return files
