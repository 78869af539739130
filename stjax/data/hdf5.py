"""Files of HDF5, and what is built on it: netCDF-4 and hickle. h5py is the extra `weather`."""

import pathlib
import re
from typing import Any


def open_file(path: pathlib.Path) -> Any:
    """The `h5py.File`, for reading.

    Raises:
        FileNotFoundError, ValueError: one line that names a file that is absent or damaged, or
            that h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(
            f"{path}: HDF5 is read by h5py, which is not installed: pip install 'stjax[weather]'"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error})") from None


def datasets(file: Any) -> list[Any]:
    """All arrays of a file, `data_9` before `data_10`."""
    import h5py

    nodes = []
    file.visititems(lambda name, node: nodes.append(node))
    found = [node for node in nodes if isinstance(node, h5py.Dataset)]
    return sorted(found, key=lambda node: [int(k) for k in re.findall(r"\d+", node.name)])
