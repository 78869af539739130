"""Codes of positions."""

import numpy as np


def sinusoid(positions: int, dim: int, base: float = 10_000) -> np.ndarray:
    """Sines and cosines of positions 0, 1, ..., interleaved (Vaswani et al. 2017): (position, dim).

    Entry 2k is the sine and entry 2k + 1 the cosine of position / base^(2k / dim). A constant of
    NumPy, in float32: the angles are exact before they are rounded.
    """
    frequency = base ** (-2 * (np.arange(dim) // 2) / dim)
    angle = np.float32(np.arange(positions)[:, None] * frequency)
    return np.where(np.arange(dim) % 2, np.cos(angle), np.sin(angle))
