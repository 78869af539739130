"""Maps at other scales: interpolation and pyramids.

Along each axis both are a product with a small matrix that is known beforehand.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Method = Literal["nearest", "linear", "cubic"]


def resize(
    maps: Float[Array, "... h w c"], size: tuple[int, int], method: Method = "linear"
) -> Float[Array, "... y x c"]:
    """Interpolates between the centres of pixels, as torch.nn.functional.interpolate does.

    That is align_corners=False and no antialiasing: of what is made smaller some pixels may not be
    seen at all. Beyond the edge lie repetitions of it. The cubic kernel is Keys' with a = -0.75
    (that of `jax.image.resize` has -0.5, and both its methods blur what they shrink unless told
    not to); "nearest" takes pixel floor(i h / y).

    Raises:
        ValueError: a size below one, an unknown method.
    """
    if min(size) < 1:
        raise ValueError(f"size: {size} instead of two sides of one pixel at least")
    if method not in ("nearest", "linear", "cubic"):
        raise ValueError(f"method: {method!r} is none of 'nearest', 'linear', 'cubic'")
    height, width = maps.shape[-3:-1]
    rows, columns = _between(height, size[0], method), _between(width, size[1], method)
    return _along(maps, rows if height != size[0] else None, columns if width != size[1] else None)


def laplacian_pyramid(
    frames: Float[Array, "... h w c"], levels: int
) -> list[Float[Array, "... y x c"]]:
    """What a frame loses at each halving: x - up(down(x)), then the same of down(x), and so on.

    down takes every second pixel of the frame blurred by [1, 4, 6, 4, 1] / 16 along both axes, and
    up blurs twice the pixels with zeros between them. Frames go on mirrored at the outermost pixel.
    (Burt and Adelson 1983, as in the published code of DMVFN, Hu et al. 2023, arXiv 2303.09875.)
    What is left at last, down(x), is not returned.

    Raises:
        ValueError: a side that 2^levels does not divide.
    """
    sides = frames.shape[-3:-1]
    if any(side % 2**levels for side in sides):
        raise ValueError(f"frames: {frames.shape}, whose sides {sides} {2**levels} does not divide")
    pyramid = []
    for _ in range(levels):
        blurs = [_blur(side) for side in frames.shape[-3:-1]]
        smaller = _along(frames, *(blur[::2] for blur in blurs))
        pyramid.append(frames - _along(smaller, *(2 * blur[:, ::2] for blur in blurs)))
        frames = smaller
    return pyramid


def _along(maps, rows, columns):
    """Products of a matrix and each column, and of another one and each row; None leaves them."""
    if rows is not None:
        maps = jnp.einsum("yh,...hwc->...ywc", jnp.asarray(rows, maps.dtype), maps)
    if columns is not None:
        maps = jnp.einsum("xw,...hwc->...hxc", jnp.asarray(columns, maps.dtype), maps)
    return maps


def _between(length, size, method):
    """The matrix that interpolates `size` points of a sequence."""
    if method == "nearest":
        return np.eye(length)[np.arange(size) * length // size]
    points = (np.arange(size) + 0.5) * length / size - 0.5
    matrix = np.zeros((size, length))
    reach = {"linear": 1, "cubic": 2}[method]
    for k in range(1 - reach, 1 + reach):
        neighbours = np.floor(points).astype(int) + k
        weights = {"linear": _triangle, "cubic": _keys}[method](np.abs(points - neighbours))
        np.add.at(matrix, (np.arange(size), np.clip(neighbours, 0, length - 1)), weights)
    return matrix


def _triangle(x):
    return 1 - x


def _keys(x, a=-0.75):
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, far)


def _blur(length):
    """The matrix that blurs a sequence, mirrored at its first and last value."""
    matrix = np.zeros((length, length))
    under = np.pad(np.arange(length), 2, "reflect")
    for k, weight in enumerate(np.array([1, 4, 6, 4, 1]) / 16):
        np.add.at(matrix, (np.arange(length), under[k : k + length]), weight)
    return matrix
