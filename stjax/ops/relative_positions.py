"""Biases of attention weights that depend on where a key stands seen from its query."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num


def log_buckets(
    distance: Int[Array, "..."],
    buckets: int = 32,
    longest: int = 128,
    *,
    bidirectional: bool = True,
) -> Int[Array, "..."]:
    """The bucket that T5 puts a distance in: one each for the short ones, wider and wider ones.

    Of n buckets for one direction the first n / 2 hold one distance each; the others share those
    up to `longest` evenly by logarithm, and the last one also holds all that are longer. (Raffel et
    al. 2020, arXiv 1910.10683, section 2.1; the rounding is that of their code.)

    Args:
        distance: position of the key minus that of the query.
        buckets: how many in all; where keys lie on both sides, the upper half is for later keys.
        longest: the distance from which on all share a bucket.
        bidirectional: whether later keys have buckets of their own, or else that of distance 0.

    Raises:
        ValueError: buckets too few or odd, `longest` within the buckets of one distance each.
    """
    directions = 1 + bidirectional
    if buckets < 2 * directions or buckets % directions:
        raise ValueError(f"buckets: {buckets} for {directions} directions")
    one_way = buckets // directions
    exact = one_way // 2
    if longest <= exact:
        raise ValueError(f"longest: {longest}, but the first {exact} distances have own buckets")
    lengths = np.arange(longest + 1)
    share = np.log(np.maximum(lengths, exact) / exact) / np.log(longest / exact)
    # The logarithms of a bucket's very edge must not fall short of it.
    wide = exact + np.floor(share * (one_way - exact) + 1e-9).astype(np.int32)
    table = np.where(lengths < exact, lengths, np.minimum(wide, one_way - 1))
    back = jnp.asarray(table, jnp.int32)[jnp.clip(jnp.abs(distance), 0, longest)]
    if bidirectional:
        return back + jnp.where(distance > 0, one_way, 0)
    return jnp.where(distance > 0, 0, back)


def bucket_bias(
    table: Float[Array, "buckets h"],
    queries: Int[Array, "*b n"],
    keys: Int[Array, "*b m"],
    longest: int = 128,
    *,
    bidirectional: bool = True,
) -> Float[Array, "*b h n m"]:
    """T5's bias: for every head the table's entry of the distance's bucket (`log_buckets`).

    Args:
        queries, keys: their positions.
    """
    bucket = log_buckets(
        _distance(queries, keys), table.shape[0], longest, bidirectional=bidirectional
    )
    return jnp.moveaxis(table[bucket], -1, -3)


def lag_bias(
    table: Float[Array, "lags h"], queries: Int[Array, "*b n"], keys: Int[Array, "*b m"]
) -> Float[Array, "*b h n m"]:
    """For every head the table's entry of how far the key lies back: to be masked where causal.

    Keys further back have the table's last entry; later ones the first.

    Args:
        queries, keys: their positions.
    """
    lag = jnp.clip(-_distance(queries, keys), 0, table.shape[0] - 1)
    return jnp.moveaxis(table[lag], -1, -3)


def alibi_slopes(heads: int) -> Float[np.ndarray, "h"]:
    """ALiBi's slopes: 2^(-8 i / heads), i = 1 ... heads, where heads is a power of two.

    For other numbers those of the power of two below, then every second one of the power above
    (Press et al. 2022, arXiv 2108.12409, section 3 and their code).

    Raises:
        ValueError: no heads.
    """
    if heads < 1:
        raise ValueError(f"heads: {heads}")
    below = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, below + 1) / below)
    between = 2.0 ** (-4 * np.arange(1, 2 * below + 1, 2) / below)
    return np.concatenate([slopes, between])[:heads]


def alibi_bias(
    queries: Num[Array, "*b n"], keys: Num[Array, "*b m"], heads: int
) -> Float[Array, "*b h n m"]:
    """Minus slope times distance, forwards as backwards: to be masked where attention is causal.

    Args:
        queries, keys: their positions.
    """
    distance = jnp.abs(_distance(queries, keys))
    return -jnp.asarray(alibi_slopes(heads))[:, None, None] * distance[..., None, :, :]


def log_spaced(offsets: Num[Array, "..."]) -> Float[Array, "..."]:
    """sign(x) ln(1 + |x|): offsets of which the far ones lie close together.

    What the network of a continuous position bias reads, so that it meets few new values when
    windows grow (Liu et al. 2022, Swin V2, arXiv 2111.09883, equation 4).
    """
    return jnp.sign(offsets) * jnp.log1p(jnp.abs(offsets))


def swin_v2_offsets(
    window: Sequence[int], trained: Sequence[int] | None = None
) -> Float[np.ndarray, "... axes"]:
    """All offsets within a window as Swin V2's code gives them to its network.

    sign(x) log2(1 + |x|) / log2(8) of offsets scaled so that a window's ends are at -8 and 8.

    Args:
        window: its size along every axis.
        trained: that of the windows the network was trained on, whose ends were at -8 and 8.

    Returns:
        Of shape (2 n - 1, ..., axes), n the sizes of the window.
    """
    axes = [
        8 * np.arange(1 - n, n) / max(full - 1, 1) for n, full in zip(window, trained or window)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return np.sign(offsets) * np.log2(1 + np.abs(offsets)) / 3


def _distance(queries, keys):
    """Of every key from every query: (*b, n, m)."""
    return keys[..., None, :] - queries[..., :, None]
