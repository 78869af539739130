"""Quantisation of vectors to finitely many codes.

Finite scalar quantisation (FSQ: Mentzer et al. 2023, arXiv 2309.15505) has no table: every channel
is bounded and rounded to one of a few levels, and the code is the number that the levels spell.
Quantisers with a learned table (`stjax.layers.codebook`) share what passes gradients and what
measures the codes' use.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def straight_through(
    x: Float[Array, "*shape"], quantised: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """`quantised`, whose gradient is taken to be that of `x` (Bengio et al. 2013, 1308.3432)."""
    return x + lax.stop_gradient(quantised - x)


def perplexity(codes: Int[Array, "..."], count: int) -> Float[Array, ""]:
    """exp of the entropy of the codes' use: 1 where one serves all, `count` where all do alike."""
    use = jnp.bincount(codes.reshape(-1), length=count) / codes.size
    return jnp.exp(-jnp.sum(use * jnp.log(use + 1e-10)))


def bounded(
    z: Float[Array, "... d"], levels: Sequence[int], epsilon: float = 1e-3
) -> Float[Array, "... d"]:
    """Each channel squashed into the interval that rounds to its levels.

    tanh(z + shift) half - offset, with half = (levels - 1)(1 + epsilon) / 2; even numbers of levels
    are offset by a half, so that as many integers lie within, and shifted back, so that 0 stays 0.
    (FSQ, appendix A.1.)
    """
    levels = _checked(z, levels)
    half = (levels - 1) * (1 + epsilon) / 2
    offset = np.where(levels % 2, 0.0, 0.5)
    shift = np.arctanh(offset / half)
    half, offset, shift = (jnp.asarray(x, z.dtype) for x in (half, offset, shift))
    return jnp.tanh(z + shift) * half - offset


def finite_scalar(
    z: Float[Array, "... d"], levels: Sequence[int]
) -> tuple[Float[Array, "... d"], Int[Array, "..."]]:
    """Rounds every channel to its levels.

    Args:
        levels: how many there are of each channel; their product is the number of codes.

    Returns:
        The levels as numbers of [-1, 1], with the gradient of `bounded`, and the codes: channel k
        counts for the product of the levels before it.

    Raises:
        ValueError: not as many levels as channels, or fewer than two of one.
    """
    inside = bounded(z, levels)
    whole = jnp.round(inside)
    half = np.asarray(levels) // 2
    digits = whole.astype(jnp.int32) + half
    embeddings = straight_through(inside, whole) / jnp.asarray(half, z.dtype)
    return embeddings, jnp.sum(digits * _basis(levels), -1)


def finite_scalar_lookup(
    codes: Int[Array, "..."], levels: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> Float[Array, "... d"]:
    """What `finite_scalar` made of the vectors of these codes."""
    half = np.asarray(levels) // 2
    digits = codes[..., None] // _basis(levels) % np.asarray(levels)
    return (digits - half).astype(dtype) / jnp.asarray(half, dtype)


def _basis(levels):
    return np.cumprod([1, *levels[:-1]]).astype(np.int32)


def _checked(z, levels):
    levels = np.asarray(levels)
    if levels.ndim != 1 or z.shape[-1:] != levels.shape or levels.min(initial=2) < 2:
        raise ValueError(f"levels: {levels.tolist()} for vectors {z.shape}; two or more a channel")
    return levels
