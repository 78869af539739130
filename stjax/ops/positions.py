"""Codes of positions."""

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
