"""Driving: KITTI (Geiger et al. 2013) to train on, Caltech Pedestrian (Dollár et al. 2009) to test.

PredNet's preparation (Lotter et al. 2017, arXiv 1605.08104), as OpenSTL reads it.
"""

import dataclasses
import functools
import io
import mmap
import pathlib
import re

import numpy as np
from jaxtyping import Int
from PIL import Image

from stjax.data import hdf5
from stjax.data.arrays import open_array
from stjax.data.records import OpenedLate, Record, clip_starts, folder

SIZE = (128, 160)
# Every third of 30 frames a second: KITTI has ten.
_STEP = 3
_JPEG = re.compile(rb"\xff\xd8\xff\xe0\x00\x10JFIF")


@dataclasses.dataclass(frozen=True, eq=False)
class Kitti(OpenedLate):
    """Clips of `<root>/X_train.hkl`, 128 x 160, end to end within a drive.

    `sources_train.hkl` names the drive of each frame. hickle's files are HDF5, read by frames.

    Attributes:
        root: folder of the two files.
        length: frames of a clip.
    """

    root: pathlib.Path
    length: int

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        start = self._starts[index]
        return {"video": self._frames[start : start + self.length]}

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " clips"]:
        path = self.root / "sources_train.hkl"
        with hdf5.open_file(path) as file:
            # One array of names, or as older hickles write a list: a scalar each.
            names = np.concatenate([np.ravel(node[()]) for node in hdf5.datasets(file)])
        if len(names) != len(self._frames):
            raise ValueError(f"{path}: {len(names)} names for {len(self._frames)} frames")
        joined = np.concatenate([[False], names[1:] == names[:-1]])
        return clip_starts(joined, self.length, self.length)

    @functools.cached_property
    def _frames(self):
        path = self.root / "X_train.hkl"
        frames = [node for node in hdf5.datasets(hdf5.open_file(path)) if node.ndim == 4]
        if len(frames) != 1 or frames[0].dtype != np.uint8:
            found = ", ".join(f"{node.dtype} {node.shape}" for node in frames)
            raise ValueError(f"{path}: ({found}) instead of one uint8 (n, h, w, c)")
        return frames[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Caltech(OpenedLate):
    """Clips of `<root>/set<NN>/V<NNN>.seq`, every third frame, end to end.

    A `.seq` file holds JPEGs, one after the other; a frame is brought to a height of 128
    and cut to the middle 160 columns. Where `data_cache.npy` and
    `indices_cache.npy` lie in the folder, what OpenSTL makes of those files and publishes, they
    are read instead; they are of clips of 11 frames.

    Attributes:
        root: folder of the test sets.
        length: frames of a clip.
        published: channels in the order blue, green, red, as OpenSTL tests them after it has
            trained on red, green, blue.
    """

    root: pathlib.Path
    length: int
    published: bool = False

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Record:
        file, start = self._clips[index]
        if file is None:
            frames = np.array(self._cache[start : start + self.length, ..., ::-1])
        else:
            frames = np.stack([self._frame(file, start + k) for k in range(self.length)])
        return {"video": frames[..., ::-1] if self.published else frames}

    def _frame(self, file: pathlib.Path, number: int):
        """One of those that are kept, by its number among them."""
        place = slice(*self._places[file][_STEP * (number + 1) - 1])
        try:
            with Image.open(io.BytesIO(self._files[file][place])) as image:
                frame = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            which = _STEP * (number + 1) - 1
            raise ValueError(f"{file}, frame {which}: not a readable JPEG ({error})") from None
        return prepared(frame)

    @functools.cached_property
    def _clips(self) -> list[tuple[pathlib.Path | None, int]]:
        if (self.root / "data_cache.npy").is_file():
            starts = np.array(open_array(self.root / "indices_cache.npy"))
            last = len(self._cache) - self.length
            return [(None, start) for start in np.sort(starts).tolist() if start <= last]
        clips = []
        for file, places in self._places.items():
            joined = np.ones(len(places) // _STEP, bool)
            clips += [(file, start) for start in clip_starts(joined, self.length, self.length)]
        if not clips:
            raise FileNotFoundError(
                f"{self.root}: neither data_cache.npy nor set<NN>/V<NNN>.seq with "
                f"{_STEP * self.length} frames"
            )
        return clips

    @functools.cached_property
    def _cache(self) -> np.memmap:
        return open_array(self.root / "data_cache.npy")

    @functools.cached_property
    def _places(self) -> dict[pathlib.Path, list[tuple[int, int]]]:
        """First byte of each JPEG of every file, and that of the one after it."""
        places = {}
        for file, content in self._files.items():
            starts = [found.start() for found in _JPEG.finditer(content)]
            places[file] = list(zip(starts, [*starts[1:], len(content)]))
        return places

    @functools.cached_property
    def _files(self) -> dict[pathlib.Path, mmap.mmap]:
        maps = {}
        for path in sorted(self.root.glob("set*/*.seq")):
            if not path.stat().st_size:
                raise ValueError(f"{path}: empty")
            with path.open("rb") as file:
                maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return maps


def prepared(frame):
    """A frame in KITTI's size, 128 x 160: PredNet's `process_im`, in uint8 as OpenSTL keeps it."""
    from scipy import ndimage  # slow to import

    height, width = SIZE
    columns = round(height / frame.shape[0] * frame.shape[1])
    scale = np.array([height, columns, 3]) / frame.shape
    # scikit-image's `resize`: blurred by as much as it shrinks, then bilinear.
    blur = np.maximum(0, (1 / scale - 1) / 2)
    smooth = ndimage.gaussian_filter(frame.astype(np.float64), blur, mode="mirror")
    out = ndimage.zoom(smooth, scale, order=1, mode="mirror", grid_mode=True)
    left = (columns - width) // 2
    return out[:, left : left + width].clip(0, 255).astype(np.uint8)


def splits(root: str, lengths: tuple[int, int], published: bool = False) -> tuple[Kitti, Caltech]:
    """KITTI of `<root>/kitti_hkl` and Caltech of `<root>/caltech`."""
    train = Kitti(folder(folder(root) / "kitti_hkl"), lengths[0])
    return train, Caltech(folder(pathlib.Path(root) / "caltech"), lengths[1], published)
