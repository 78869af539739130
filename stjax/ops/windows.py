"""Maps of one to three axes cut into windows, and back.

A map is (b, *shape, *rest), cut along the axes of `shape`; its windows are (b, windows, tokens,
*rest), both the windows and the tokens of each in raster order.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped


def fit(
    shape: Sequence[int], window: Sequence[int], shift: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and shift for a map: where a window is as long as the map, or longer, it is the map.

    There nothing is left to shift (Liu et al. 2021, arXiv 2103.14030, the official code).

    Raises:
        ValueError: window or shift have another number of axes than the map.
    """
    for name, lengths in (("window", window), ("shift", shift)):
        if len(lengths) != len(shape):
            raise ValueError(f"{name}: {tuple(lengths)} on a map of {tuple(shape)}")
    window = tuple(min(w, n) for w, n in zip(window, shape))
    return window, tuple(s if w < n else 0 for s, w, n in zip(shift, window, shape))


def pad(x: Shaped[Array, "b ..."], window: Sequence[int]) -> Shaped[Array, "b ..."]:
    """Zeros at the end of each axis, up to a multiple of the window's."""
    widths = [(0, -n % w) for n, w in zip(x.shape[1:], window)]
    return jnp.pad(x, [(0, 0), *widths] + [(0, 0)] * (x.ndim - 1 - len(window)))


def roll(x: Shaped[Array, "b ..."], shift: Sequence[int]) -> Shaped[Array, "b ..."]:
    """The map moved cyclically by `shift` along its axes."""
    return jnp.roll(x, shift, range(1, 1 + len(shift))) if any(shift) else x


def partition(
    x: Shaped[Array, "b ..."], window: Sequence[int]
) -> Shaped[Array, "b windows tokens ..."]:
    """Cuts a map into windows.

    Raises:
        ValueError: the window does not divide the map.
    """
    axes = len(window)
    shape, rest = x.shape[1 : 1 + axes], x.shape[1 + axes :]
    if any(n % w for n, w in zip(shape, window)):
        raise ValueError(f"window: {tuple(window)} does not divide a map of {shape}")
    cut = [length for n, w in zip(shape, window) for length in (n // w, w)]
    x = x.reshape(len(x), *cut, *rest)
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)]
    x = x.transpose(*order, *range(1 + 2 * axes, x.ndim))
    return x.reshape(len(x), -1, math.prod(window), *rest)


def reverse(
    windows: Shaped[Array, "b windows tokens ..."], window: Sequence[int], shape: Sequence[int]
) -> Shaped[Array, "b ..."]:
    """The map of `shape` whose windows these are: the inverse of `partition`."""
    axes, rest = len(window), windows.shape[3:]
    counts = [n // w for n, w in zip(shape, window)]
    x = windows.reshape(len(windows), *counts, *window, *rest)
    order = [0, *(axis for a in range(1, 1 + axes) for axis in (a, a + axes))]
    x = x.transpose(*order, *range(1 + 2 * axes, x.ndim))
    return x.reshape(len(windows), *shape, *rest)


def relative_index(window: Sequence[int]) -> Int[np.ndarray, "w w"]:
    """Row of a table of relative positions for each pair of tokens of a window (query, key).

    Offsets run from 1 - w to w - 1 along each axis, the last axis fastest: the table has
    prod(2 w - 1) rows (Liu et al. 2021, arXiv 2103.14030, section 3.2; of clips arXiv 2106.13230).
    """
    places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1)
    places = places.reshape(-1, len(window))
    offsets = places[:, None] - places + np.array(window) - 1
    return np.ravel_multi_index(tuple(np.moveaxis(offsets, -1, 0)), [2 * w - 1 for w in window])
