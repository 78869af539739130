"""Videos that lie on disk as numpy arrays."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from stjax.data.records import OpenedLate, Record


@dataclasses.dataclass(frozen=True, eq=False)
class TestFile(OpenedLate):
    """Published test sequences of moving digits, `mnist_test_seq.npy` and its like.

    (t, n, h, w) or (t, n, h, w, 3) uint8, memory-mapped: a record costs its own bytes.
    """

    __test__ = False  # not a class of tests, whatever pytest makes of its name

    path: pathlib.Path

    def __post_init__(self):
        shape, dtype = self._array.shape, self._array.dtype
        if len(shape) not in (4, 5) or dtype != np.uint8:
            raise ValueError(f"{self.path}: {dtype} {shape} instead of uint8 (t, n, h, w[, c])")

    def __len__(self) -> int:
        return self._array.shape[1]

    def __getitem__(self, index: int) -> Record:
        return {"video": np.array(self._array[:, index])}

    @functools.cached_property
    def _array(self) -> np.ndarray:
        return open_array(self.path)


def open_array(path: pathlib.Path) -> np.memmap:
    """Memory-maps a `.npy` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an array file, or shorter than its header says.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return _mapped(path, 0, path.stat().st_size)


def members(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the arrays of a `.npz` file.

    Raises:
        FileNotFoundError, ValueError: no such file, or not one of that kind.
    """
    with _archive(path) as archive:
        shapes = {}
        for name in archive.namelist():
            with archive.open(name) as member:
                shapes[name.removesuffix(".npy")] = _header(member, f"{path}: {name}")[0]
        return shapes


def open_members(path: pathlib.Path, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Arrays of a `.npz` file: mapped into memory, or read where they are compressed.

    Raises:
        FileNotFoundError, ValueError: no such file, not one of that kind, or no such array in it.
    """
    arrays = []
    with _archive(path) as archive:
        for name in names:
            if f"{name}.npy" not in archive.namelist():
                held = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
                raise ValueError(f"{path}: holds {held}, no {name}")
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                with path.open("rb") as file:
                    file.seek(info.header_offset + 26)
                    # The name and further fields lie between a member's header and its data.
                    skipped = sum(np.frombuffer(file.read(4), "<u2").tolist())
                arrays.append(_mapped(path, info.header_offset + 30 + skipped, info.file_size))
            else:
                with archive.open(info) as member:
                    arrays.append(np.lib.format.read_array(member))
    return tuple(arrays)


def _mapped(path: pathlib.Path, offset: int, size: int) -> np.memmap:
    """The array that lies at a byte of a file; it and its header take `size` bytes."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, fortran, dtype = _header(file, str(path))
        start = file.tell()
    expected = start - offset + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise ValueError(f"{path}: {expected} bytes expected for {dtype} {shape}, {size} found")
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        return read(file)
    except ValueError as error:
        raise ValueError(f"{where}: not a .npy file ({error})") from None


@contextlib.contextmanager
def _archive(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None
