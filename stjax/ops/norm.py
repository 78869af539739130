"""Normalisations as pure functions."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "..."],
    scale: Float[Array, "..."],
    bias: Float[Array, "..."],
    axes: Sequence[int] = (-1,),
    epsilon: float = 1e-5,
) -> Float[Array, "..."]:
    """Zero mean and unit variance over `axes`, then a scale and a bias that broadcast against x."""
    mean = jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axes, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon) * scale + bias
