"""Masks of several objects that share an image: their channels are objects."""

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float

Masks = Float[Array, "... h w n"]

_LEAST = 1e-7  # how near probabilities come to 0 and 1


def aggregate(probabilities: Float[Array, "... n"]) -> Float[Array, "... n+1"]:
    """Logits of the background and of each object, from what each object's mask says by itself.

    The background is where no object is, prod_n (1 - p_n); a logit is that of its probability.
    (Oh et al. 2019, STM, arXiv 1904.00607, section 3.4.) In float32 at least.
    """
    objects = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    background = jnp.prod(1 - objects, -1, keepdims=True)
    clipped = jnp.clip(jnp.concatenate([background, objects], -1), _LEAST, 1 - _LEAST)
    return jnp.log(clipped / (1 - clipped))


def others(masks: Masks) -> Masks:
    """Where any of the other objects is, at most 1."""
    return jnp.clip(masks.sum(-1, keepdims=True) - masks, 0, 1)


def area_mean(maps: Float[Array, "... H W c"], factor: int) -> Float[Array, "... h w c"]:
    """Means over squares of `factor` pixels, which divides both sides."""
    pattern = "... (h p) (w q) c -> ... h w c"
    return einops.reduce(maps, pattern, "mean", p=factor, q=factor)
