"""Images of handwritten digits, in disjoint halves for training and for testing."""

import math
import pathlib
import zlib

import numpy as np
from jaxtyping import UInt8

from stjax.data import records, tfds

Digits = UInt8[np.ndarray, "n size size"]

_TRAIN, _TEST, _ONLY = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "images-idx3-ubyte"
_IDX_IMAGES = 2051


def load(
    name: str = "sklearn", size: int | None = None, data_dir: str | None = None
) -> tuple[Digits, Digits]:
    """Digit images, 0 to 255, for training and for testing.

    Args:
        name: "sklearn": the 1,797 real 8x8 digits bundled with scikit-learn (UCI Optical
            Recognition of Handwritten Digits); "tfds:<name>": a prepared image data set of TFDS
            (mnist, fashion_mnist, kmnist); else a folder of MNIST IDX files, plain or gzipped.
            What has no split of its own is cut: the first 5/6 for training.
        size: height and width to average the digits to; None leaves them (8 and 28 pixels).
        data_dir: where TFDS data sets lie; None: TFDS's own default.
    """
    if name == "sklearn":
        splits = _cut(_bundled())
    elif name.startswith("tfds:"):
        splits = tuple(_from_tfds(name[5:], split, data_dir) for split in ("train", "test"))
    else:
        splits = _from_folder(pathlib.Path(name))
    if size is None:
        return splits
    return tuple(records.resize(images[..., None], size)[..., 0] for images in splits)


def read_idx(path: pathlib.Path) -> UInt8[np.ndarray, "n h w"]:
    """Reads images from an IDX file (big-endian header 2051, n, h, w), plain or gzipped.

    Raises:
        ValueError: another header, or fewer or more bytes than it announces.
    """
    data = path.read_bytes()
    if path.suffix == ".gz":
        # Not gzip.decompress: a truncated file should still say how much of it there is.
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data)
        except zlib.error as error:
            raise ValueError(f"{path}: not a gzip file ({error})") from None
    magic, *shape = (int(x) for x in np.frombuffer(data[:16].ljust(16, b"\0"), ">u4"))
    if magic != _IDX_IMAGES:
        raise ValueError(f"{path}: header {magic} instead of {_IDX_IMAGES}, IDX images of uint8")
    expected = 16 + math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"{path}: {expected} bytes expected for {shape} images, {len(data)} found")
    return np.frombuffer(data, np.uint8, offset=16).reshape(shape)


def _bundled() -> Digits:
    from sklearn.datasets import load_digits  # 1.5 s to import

    return np.rint(load_digits().images * (255 / 16)).astype(np.uint8)


def _from_tfds(name: str, split: str, data_dir: str | None) -> Digits:
    stored = tfds.open_split(name, split, data_dir)
    return np.stack([stored[index]["image"][..., 0] for index in range(len(stored))])


def _from_folder(folder: pathlib.Path) -> tuple[Digits, Digits]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of digits (or 'sklearn', 'tfds:<name>')")
    found = {
        name: path
        for name in (_TRAIN, _TEST, _ONLY)
        for path in (folder / f"{name}.gz", folder / name)
        if path.is_file()
    }
    if {_TRAIN, _TEST} <= found.keys():
        return read_idx(found[_TRAIN]), read_idx(found[_TEST])
    if not found:
        raise FileNotFoundError(f"{folder}: none of {_TRAIN}, {_TEST}, {_ONLY} (plain or .gz)")
    return _cut(read_idx(next(iter(found.values()))))


def _cut(images: Digits) -> tuple[Digits, Digits]:
    end = len(images) * 5 // 6
    return images[:end], images[end:]
