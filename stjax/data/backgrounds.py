"""Small colour images: CIFAR-10 (Krizhevsky 2009) as it lies on disk, or made ones."""

import dataclasses
import functools
import pathlib
import pickle
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from stjax.data import tfds
from stjax.data.records import OpenedLate, folder, interpolate

Image = UInt8[np.ndarray, "h w 3"]

_BYTES = 3 * 32 * 32
_TRAIN, _TEST = tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",)


def load(name: str, data_dir: str | None = None) -> tuple[Sequence[Image], Sequence[Image]]:
    """Images for training and for testing.

    Args:
        name: "made": smooth colours; "tfds:<name>": a prepared image data set of TFDS (cifar10);
            else a folder of CIFAR-10's files, pickled or binary.
        data_dir: where TFDS data sets lie; None: TFDS's own default.
    """
    if name == "made":
        images = _made(600)
        return images[:500], images[500:]
    if name.startswith("tfds:"):
        return tuple(TfdsImages(name[5:], split, data_dir) for split in ("train", "test"))
    return tuple(Cifar(folder(name), names) for names in (_TRAIN, _TEST))


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImages(OpenedLate):
    """The images of one split of a prepared TFDS data set, see `stjax.data.tfds`."""

    name: str
    split: str
    data_dir: str | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Image:
        return self._records[index]["image"]

    @functools.cached_property
    def _records(self):
        return tfds.open_split(self.name, self.split, self.data_dir)


@dataclasses.dataclass(frozen=True, eq=False)
class Cifar(OpenedLate):
    """CIFAR-10's files by their names: binary ones (.bin), mapped into memory, or pickled ones.

    Attributes:
        folder: where they lie, `cifar-10-batches-bin` or `cifar-10-batches-py`.
        names: of the files, without .bin.
    """

    folder: pathlib.Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, index: int) -> Image:
        for part in self._parts:
            if index < len(part):
                return part[index, -_BYTES:].reshape(3, 32, 32).transpose(1, 2, 0)
            index -= len(part)
        raise IndexError(f"image {index} past the last")

    @functools.cached_property
    def _parts(self) -> list[UInt8[np.ndarray, "n bytes"]]:
        return [self._part(name) for name in self.names]

    def _part(self, name: str) -> UInt8[np.ndarray, "n bytes"]:
        binary, pickled = self.folder / f"{name}.bin", self.folder / name
        if binary.is_file():
            size = binary.stat().st_size
            if not size or size % (1 + _BYTES):
                raise ValueError(f"{binary}: {size} bytes are no whole images of {1 + _BYTES}")
            return np.memmap(binary, np.uint8, "r").reshape(-1, 1 + _BYTES)
        if not pickled.is_file():
            raise FileNotFoundError(f"{self.folder}: neither {binary.name} nor {name}")
        return _unpickled(pickled)


def _unpickled(path: pathlib.Path) -> UInt8[np.ndarray, "n bytes"]:
    try:
        with path.open("rb") as file:
            pixels = _Arrays(file, encoding="bytes").load()[b"data"]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a pickled part of CIFAR-10 ({error})") from None
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_BYTES,):
        raise ValueError(f"{path}: {pixels.dtype} {pixels.shape} instead of uint8 (n, {_BYTES})")
    return pixels


class _Arrays(pickle.Unpickler):
    """A pickle may run anything; this one makes arrays and nothing else."""

    def find_class(self, module: str, name: str):
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"holds {module}.{name}")


def _made(count: int) -> UInt8[np.ndarray, "n 32 32 3"]:
    """A few random colours, and what lies between them."""
    corners = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return np.rint(interpolate(corners, (32, 32))).astype(np.uint8)
