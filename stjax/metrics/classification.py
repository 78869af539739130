"""How often a class is right: one number a sample, 1 or 0."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def top_k_error(
    scores: Float[Array, "b classes"], labels: Int[Array, " b"], k: int = 1
) -> Float[Array, " b"]:
    """1 where k other classes or more come before the true one, else 0.

    Of classes that score alike the first comes first. So scores that are all alike are right of
    the first k classes alone, as `argmax` would be.
    """
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    earlier = jnp.arange(scores.shape[1]) < labels[:, None]
    before = (scores > own) | ((scores == own) & earlier)
    return (before.sum(1) >= k).astype(jnp.float32)
