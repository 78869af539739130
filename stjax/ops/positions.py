"""Codes of positions, and of the times of a diffusion process."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num


def sinusoidal(positions: Num[Array, "*n"], features: int) -> Float[Array, "*n features"]:
    """Sines, then cosines, of angles position / 10000^(2 i / features), i < features / 2.

    (Vaswani et al., arXiv 1706.03762, section 3.5, with the two kinds side by side.)

    Raises:
        ValueError: an odd number of features.
    """
    if features % 2:
        raise ValueError(f"features: {features} is odd; sines and cosines come in pairs")
    frequencies = 10000.0 ** (-jnp.arange(0, features, 2) / features)
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def sinusoid_table(positions: int, dim: int, base: float = 10_000) -> np.ndarray:
    """Sines and cosines of positions 0, 1, ..., interleaved (Vaswani et al. 2017): (position, dim).

    Entry 2k is the sine and entry 2k + 1 the cosine of position / base^(2k / dim). A constant of
    NumPy, in float32: the angles are exact before they are rounded.
    """
    frequency = base ** (-2 * (np.arange(dim) // 2) / dim)
    angle = np.float32(np.arange(positions)[:, None] * frequency)
    return np.where(np.arange(dim) % 2, np.cos(angle), np.sin(angle))


def sinusoidal_grid(
    shape: Sequence[int], features: int, order: Sequence[int] | None = None
) -> Float[np.ndarray, "*shape features"]:
    """Codes of the cells of a grid: every axis has an equal share of the features.

    A share is the sines, then the cosines, of coordinate / 10000^(2 i / share), i < share / 2: the
    table of DiT (Peebles and Xie 2022, arXiv 2212.09748) and MAE. A constant of NumPy, rounded to
    float32 at the end.

    Args:
        shape: lengths of the grid's axes.
        features: width of a code.
        order: the axes in the order of their shares; None: as they are. The published tables of
            images have (1, 0): columns first.

    Raises:
        ValueError: features that are not as many sines as cosines for every axis; an order that is
            none of the axes.
    """
    axes = tuple(range(len(shape)) if order is None else order)
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"order: {axes} is no order of the {len(shape)} axes")
    if features % (2 * len(shape)):
        raise ValueError(f"features: {features} is no multiple of {2 * len(shape)}")
    share = features // len(shape)
    frequencies = 10_000.0 ** (-2 * np.arange(share // 2) / share)
    angles = [coordinate[..., None] * frequencies for coordinate in np.indices(shape)]
    codes = [part(angles[axis]) for axis in axes for part in (np.sin, np.cos)]
    return np.concatenate(codes, -1).astype(np.float32)


def timestep_code(
    times: Num[Array, "*n"], features: int, base: float = 10_000
) -> Float[Array, "*n features"]:
    """Cosines, then sines, of time / base^(i / h), i < h = features / 2.

    As DiT and its descendants compute it, from GLIDE's code on (Nichol et al. 2021, arXiv
    2112.10741): all in float32, the exponents rounded too.

    Args:
        times: of a diffusion process, 0 to 999 mostly; fractions are times as well.
        features: width of a code.

    Raises:
        ValueError: an odd number of features.
    """
    if features % 2:
        raise ValueError(f"features: {features} is odd; sines and cosines come in pairs")
    half = features // 2
    exponents = np.float32(-math.log(base)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = times[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
