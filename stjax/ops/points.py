"""Points of a map at which a loss looks closer: those where the map cannot make up its mind.

Points are (y, x) in [0, 1], from edge to edge. (Kirillov et al. 2020, PointRend, arXiv 1912.08193,
section 3.1.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.ops.sample import sample

Points = Float[Array, "b p 2"]


def at_points(maps: Float[Array, "b h w c"], points: Points) -> Float[Array, "b p c"]:
    """What lies at the points, between pixels linearly, and zero outside."""
    return sample(maps, points * jnp.asarray(maps.shape[1:3], points.dtype) - 0.5)


def uncertainty(logits: Float[Array, "... c"]) -> Float[Array, "..."]:
    """Minus the distance between the two likeliest classes' logits; of two classes, -|the last|."""
    if logits.shape[-1] == 2:
        return -jnp.abs(logits[..., 1])
    best = jax.lax.top_k(logits, 2)[0]
    return best[..., 1] - best[..., 0]


def uncertain_points(
    logits: Float[Array, "b h w c"], candidates: Float[Array, "b m 2"], count: int
) -> Float[Array, "b count 2"]:
    """The `count` candidates where the map is least certain, from the least on.

    It is the map's value at the point that counts: between pixels which are sure of different
    classes it is not sure at all.
    """
    chosen = jax.lax.top_k(uncertainty(at_points(logits, candidates)), count)[1]
    return jnp.take_along_axis(candidates, chosen[..., None], axis=1)
