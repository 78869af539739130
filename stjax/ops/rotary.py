"""Rotary codes of positions (RoFormer, Su et al. 2021, arXiv 2104.09864, section 3.2).

Channels go in pairs, and each pair turns by position times its frequency. Where positions have
several axes (time, row, column), each pair follows one of them. So a code is a `Spectrum`: how fast
each pair turns, and which axis it follows; published codes differ in nothing else but which
channels make a pair:

| code | spectrum | pairs |
| --- | --- | --- |
| Llama | `axial_spectrum((d // 2,))` | halves |
| Wan, Flux, DrivingWorld | `axial_spectrum((22, 21, 21))`, by axis | interleaved |
| RoPE-2D of CroCo and VGGT | `axial_spectrum((16, 16), base=100)` | halves, of 2 blocks |
| Qwen2-VL's ViT | `axial_spectrum((20, 20))` | halves |
| Qwen2-VL's M-RoPE | `shared_spectrum(np.repeat((0, 1, 2), (16, 24, 24)))` | halves |
| Lumos-1's MM-RoPE | `channel_spectrum(np.tile(<axes of 16 channels>, d // 16))` | halves |
| LTX-Video | `fractional_spectrum(width, axes=3)`, before the heads are split | interleaved |
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Num


class Spectrum(NamedTuple):
    """How fast each of p pairs of channels turns, in radians per unit, and along which axis.

    Or each channel, where the two of a pair may follow axes of their own (`channel_spectrum`).
    """

    frequencies: Float64[np.ndarray, "p"]
    axes: Int[np.ndarray, "p"]


def axial_spectrum(pairs: Sequence[int], base: float = 10_000) -> Spectrum:
    """A block of pairs for every axis, each with a whole spectrum of its own.

    Pair k of the n pairs of an axis turns by base^(-k / n).

    Args:
        pairs: number of pairs of every axis; together they are half of the channels.
    """
    frequencies = [_geometric(n, base) for n in pairs]
    return Spectrum(np.concatenate(frequencies), np.repeat(np.arange(len(pairs)), pairs))


def shared_spectrum(axes: Sequence[int], base: float = 10_000) -> Spectrum:
    """One spectrum for all axes, dealt out among them: pair k of p turns by base^(-k / p).

    Positions whose axes are all equal are then coded like positions of one axis, which is how text
    goes beside video.

    Args:
        axes: the axis of every pair.
    """
    return Spectrum(_geometric(len(axes), base), np.asarray(axes))


def channel_spectrum(axes: Sequence[int], base: float = 10_000) -> Spectrum:
    """`shared_spectrum` told channel by channel, as Lumos-1 deals the axes out.

    Channels k and k + d / 2 share a frequency, and where d is a multiple of twice the length of the
    pattern of axes, an axis: then it is the same code.

    Args:
        axes: the axis of each of d channels, d even.
    """
    return Spectrum(np.tile(_geometric(len(axes) // 2, base), 2), np.asarray(axes))


def fractional_spectrum(features: int, axes: int, base: float = 10_000) -> Spectrum:
    """LTX-Video's: from pi / 2 up to base pi / 2, evenly by logarithm, every axis with each.

    Made for positions 2 p / extent - 1, in [-1, 1]. Axes alternate quickest. Where the channels do
    not divide, the first pairs stand still. (HaCohen et al. 2025, arXiv 2501.00103.)

    Args:
        features: number of channels, even.

    Raises:
        ValueError: an odd number of channels, or too few for a frequency.
    """
    if features % 2 or features < 2 * axes:
        raise ValueError(f"features: {features}, not an even number of {2 * axes} or more")
    frequencies = np.pi / 2 * base ** np.linspace(0, 1, features // (2 * axes))
    still = features // 2 - axes * len(frequencies)
    return Spectrum(
        np.concatenate([np.zeros(still), np.repeat(frequencies, axes)]),
        np.concatenate([np.zeros(still, int), np.tile(np.arange(axes), len(frequencies))]),
    )


def interpolated(spectrum: Spectrum, factor: float) -> Spectrum:
    """All frequencies divided by `factor`: as many times more positions in the same angles.

    (Chen et al. 2023, arXiv 2306.15595, equation 4.)
    """
    return spectrum._replace(frequencies=spectrum.frequencies / factor)


def ntk_base(base: float, factor: float, pairs: int) -> float:
    """A base with which the slowest of `pairs` pairs is `factor` times slower, the first as before.

    base factor^(d / (d - 2)) with d = 2 pairs (NTK-aware interpolation: Peng et al. 2023, arXiv
    2309.00071, definition 1).
    """
    return base * factor ** (pairs / (pairs - 1))


def yarn(
    spectrum: Spectrum, factor: float, length: float, slow: float = 1, fast: float = 32
) -> Spectrum:
    """Divides by `factor` the frequencies of pairs that turn less than `slow` times over `length`.

    Those that turn more than `fast` times stay; between the two the share that stays grows linearly
    with the number of turns (YaRN: Peng et al. 2023, arXiv 2309.00071, definition 2). YaRN also
    multiplies queries and keys by 1 + ln(factor) / 10 each (equation 22).

    Args:
        length: how many positions the network was trained on.
    """
    turns = length * spectrum.frequencies / (2 * np.pi)
    kept = np.clip((turns - slow) / (fast - slow), 0, 1)
    return spectrum._replace(frequencies=spectrum.frequencies * (kept + (1 - kept) / factor))


def grid_positions(shape: Sequence[int]) -> Int[np.ndarray, "n axes"]:
    """Indices of all cells of a grid, the last axis running quickest."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))


def rotary_angles(positions: Num[Array, "... axes"], spectrum: Spectrum) -> Float[Array, "... p"]:
    """The angle of every pair at every position: positions[..., axes] * frequencies.

    Positions that are a NumPy array give a NumPy array, in float64 and without whole turns, so that
    nothing is lost when it is rounded; for JAX's arrays the products are as exact as the default
    float, an error of up to 1e-7 of the angle.

    Args:
        positions: integers or fractions, on the last axis one number for each axis of the
            spectrum.

    Raises:
        ValueError: positions with fewer axes than the spectrum follows.
    """
    axes = 1 + max(spectrum.axes)
    if positions.ndim == 0 or positions.shape[-1] < axes:
        raise ValueError(f"positions: {positions.shape} instead of (..., {axes})")
    if isinstance(positions, np.ndarray):
        angles = positions[..., spectrum.axes] * spectrum.frequencies
        return np.remainder(angles + np.pi, 2 * np.pi) - np.pi
    positions = positions.astype(jnp.result_type(float))
    return positions[..., spectrum.axes] * spectrum.frequencies.astype(positions.dtype)


def rotate(
    x: Float[Array, "*b n h d"],
    angles: Float[Array, "*#b #n p"] | Float[Array, "*#b #n d"],
    *,
    interleaved: bool = False,
    blocks: int = 1,
) -> Float[Array, "*b n h d"]:
    """Turns the pairs of channels of queries or keys: (u, v) -> (u cos - v sin, u sin + v cos).

    Dot products of two that are turned depend on their positions through differences alone.

    Args:
        x: queries or keys. Channels beyond the first 2 p stay as they are.
        angles: those of `rotary_angles`, the same for all heads; of pairs, or of each of d channels
            whose first half pairs with the second: u then turns by its own angle, and v by its own.
        interleaved: whether channels 2 k and 2 k + 1 make pair k, or else k and k + p.
        blocks: into how many equal blocks the channels fall, each paired half by half by itself;
            means nothing where they are interleaved.

    Raises:
        ValueError: shapes that do not fit, blocks that do not divide the pairs.
    """
    pairs = angles.shape[-1] if angles.ndim else 0
    each = 0 < pairs == x.shape[-1] and pairs % 2 == 0 and blocks == 1 and not interleaved
    if each:
        pairs //= 2
    if x.ndim < 3 or x.shape[-1] < 2 * pairs:
        raise ValueError(f"x: {x.shape} instead of (..., n, h, {2 * pairs} or more)")
    wanted = (*x.shape[:-2], pairs * (1 + each))
    if angles.ndim > len(wanted) or any(
        ours not in (1, theirs) for ours, theirs in zip(angles.shape[::-1], wanted[::-1])
    ):
        raise ValueError(f"angles: {angles.shape} does not broadcast to {wanted}")
    blocks = pairs if interleaved else blocks
    if blocks < 1 or pairs % blocks:
        raise ValueError(f"blocks: {blocks} do not divide {pairs} pairs")
    numpy = np if isinstance(angles, np.ndarray) else jnp
    x = jnp.asarray(x)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    shape = (*angles.shape[:-1], 1, blocks, 1 + each, pairs // blocks)
    cos, sin = (jnp.asarray(f(angles).reshape(shape), dtype) for f in (numpy.cos, numpy.sin))
    uv = x[..., : 2 * pairs].astype(dtype).reshape(*x.shape[:-1], blocks, 2, pairs // blocks)
    across = jnp.stack([-uv[..., 1, :], uv[..., 0, :]], -2)
    turned = (uv * cos + across * sin).astype(x.dtype).reshape(*x.shape[:-1], 2 * pairs)
    return jnp.concatenate([turned, x[..., 2 * pairs :]], -1)


def _geometric(n, base):
    return float(base) ** (-np.arange(n) / max(n, 1))
