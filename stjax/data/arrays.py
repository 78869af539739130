"""Videos that lie on disk as numpy arrays."""

import dataclasses
import functools
import math
import pathlib
import zipfile
import zlib

import numpy as np

from stjax.data.records import OpenedLate, Record, pick


@dataclasses.dataclass(frozen=True, eq=False)
class TestFile(OpenedLate):
    """The published test file of Moving MNIST, `mnist_test_seq.npy`: (t, n, h, w) uint8.

    Memory-mapped: a record costs its own bytes.
    """

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    path: pathlib.Path

    def __post_init__(self):
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) != 4 or dtype != np.uint8:
            raise ValueError(f"{self.path}: {dtype} {shape} instead of uint8 (t, n, h, w)")

    def __len__(self) -> int:
        return self._array.shape[1]

    def __getitem__(self, index: int) -> Record:
        return {"video": np.array(self._array[:, index])}

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return open_array(self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayFolder:
    """One video a file: `.npy`, or `.npz` with the array named `key` (or only one that fits).

    Attributes:
        files: (t, h, w, c) or (t, h, w) each.
        key: entry of the `.npz` files; None: the only array of rank 3 or 4.
    """

    files: tuple[pathlib.Path, ...]
    key: str | None = None

    @classmethod
    def splits(cls, folder: str, key: str | None = None) -> tuple["ArrayFolder", "ArrayFolder"]:
        """For training and testing: folders "train" and "test", or else the first 5/6 and the rest.

        Raises:
            FileNotFoundError: no such folder, or no `.npy` or `.npz` file in it.
        """
        root = pathlib.Path(folder)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder")
        if (root / "train").is_dir() and (root / "test").is_dir():
            found = [_arrays_below(root / split) for split in ("train", "test")]
        else:
            files = _arrays_below(root)
            end = len(files) * 5 // 6
            found = [files[:end], files[end:]]
        return tuple(cls(files, key) for files in found)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        path = self.files[index]
        if path.suffix == ".npy":
            return {"video": np.array(open_array(path))}
        try:
            with path.open("rb") as file, np.load(file) as entries:
                return {"video": pick(dict(entries), self.key, str(path), ranks=(3, 4))}
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a readable .npz file ({error})") from None


def open_array(path: pathlib.Path) -> np.memmap:
    """Memory-maps a `.npy` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an array file, or shorter than its header says.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
        except ValueError as error:
            raise ValueError(f"{path}: not a .npy file ({error})") from None
        expected = file.tell() + math.prod(shape) * dtype.itemsize
    found = path.stat().st_size
    if found < expected:
        raise ValueError(f"{path}: {expected} bytes expected for {dtype} {shape}, {found} found")
    return np.load(path, mmap_mode="r")


def _arrays_below(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    files = tuple(sorted(p for p in folder.rglob("*") if p.suffix in (".npy", ".npz")))
    if not files:
        raise FileNotFoundError(f"{folder}: no .npy or .npz files")
    return files
