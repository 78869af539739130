"""The Haar wavelet transform of sequences, frames and clips."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def haar(
    values: Float[Array, "b *grid c"], levels: int, *, orthonormal: bool = False
) -> Float[Array, "b *smaller bands*c"]:
    """Cuts a grid into cells of 2 values a side, and these cells again, `levels` times.

    Each cell of a clip, 2 x 2 x 2 values, becomes its mean and seven means of differences, the
    bands; the channels are ordered band by band, a band's number being (time, height, width) in
    binary, 1 for a difference. Bands are cut again like the mean, so that all frequencies come out
    equally wide (wavelet packets: the patches of the Cosmos tokenizers, Agarwal et al. 2025, arXiv
    2501.03575, section 4.1).

    Args:
        values: of one to three axes, all of whose sides become 2^levels times shorter.
        levels: how often.
        orthonormal: sums over the square root of their number instead of means.

    Raises:
        ValueError: a side that 2^levels does not divide.
    """
    sides = values.shape[1:-1]
    if any(side % 2**levels for side in sides):
        raise ValueError(f"values: {values.shape}, whose sides {sides} {2**levels} does not divide")
    gain = 0.5**0.5 if orthonormal else 0.5
    for _ in range(levels):
        bands = values[..., None, :]
        for axis in range(1, 1 + len(sides)):
            first, second = (lax.slice_in_dim(bands, k, None, 2, axis) for k in (0, 1))
            pairs = jnp.stack([first + second, first - second], -2) * gain
            bands = pairs.reshape(*pairs.shape[:-3], -1, pairs.shape[-1])
        values = bands.reshape(*bands.shape[:-2], -1)
    return values


def inverse_haar(
    bands: Float[Array, "b *grid bands*c"], levels: int, *, orthonormal: bool = False
) -> Float[Array, "b *larger c"]:
    """The grid whose `haar` these bands are.

    Raises:
        ValueError: channels that are no bands of so many levels.
    """
    axes = bands.ndim - 2
    if bands.shape[-1] % 2 ** (axes * levels):
        count = 2 ** (axes * levels)
        raise ValueError(f"bands: {bands.shape}, channels that {count} does not divide")
    gain = 0.5**0.5 if orthonormal else 1.0
    for _ in range(levels):
        bands = bands.reshape(*bands.shape[:-1], 2**axes, -1)
        for axis in reversed(range(1, 1 + axes)):
            sums, differences = bands[..., ::2, :], bands[..., 1::2, :]
            pairs = jnp.stack([sums + differences, sums - differences], axis + 1) * gain
            bands = pairs.reshape(*pairs.shape[:axis], -1, *pairs.shape[axis + 2 :])
        bands = bands[..., 0, :]
    return bands
