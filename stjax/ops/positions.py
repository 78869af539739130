"""Codes of positions."""

import jax.numpy as jnp
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
