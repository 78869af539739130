"""TaxiBJ (Zhang et al. 2017, arXiv 1610.00081): taxis' ways in Beijing."""

import dataclasses
import functools
import pathlib
import warnings

import numpy as np

from stjax.data.arrays import open_members
from stjax.data.records import OpenedLate, Record


@dataclasses.dataclass(frozen=True, eq=False)
class TaxiBj(OpenedLate):
    """Clips of OpenSTL's `dataset.npz`: what came in and went out of 32 x 32 cells, in [0, 1].

    The file holds X_train, Y_train, X_test and Y_test (n, t, 2, h, w) in [-1, 1]: X is the
    context, Y the future. They are mapped into memory; compressed ones, which cannot be, are read
    whole, with a warning.

    Attributes:
        path: the file.
        training: which of the two parts.
        context, length: frames of X, and of X and Y together.
    """

    path: pathlib.Path
    training: bool
    context: int
    length: int

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitem__(self, index: int) -> Record:
        frames = np.concatenate([array[index] for array in self._arrays])[: self.length]
        video = (np.float32(frames) + 1) / 2
        low, high = video.min(), video.max()
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(
                f"{self.path}: record {index} spans [{2 * low - 1}, {2 * high - 1}] instead of "
                "[-1, 1]"
            )
        return {"video": np.clip(video, 0, 1).transpose(0, 2, 3, 1)}

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        names = [f"{part}_{'train' if self.training else 'test'}" for part in "XY"]
        arrays = open_members(self.path, names)
        if not all(isinstance(array, np.memmap) for array in arrays):
            warnings.warn(
                f"{self.path}: compressed, so that it is read whole; np.savez would not compress",
                stacklevel=2,
            )
        past, future = (array.shape for array in arrays)
        alike = len(past) == len(future) == 5 and past[0] == future[0] and past[2:] == future[2:]
        if not alike or past[1] != self.context or past[1] + future[1] < self.length:
            raise ValueError(
                f"{self.path}: {names[0]} {past} and {names[1]} {future} instead of "
                f"(n, {self.context}, 2, h, w) and (n, {self.length - self.context}, 2, h, w)"
            )
        return arrays
