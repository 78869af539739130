"""How far estimated scene flow, a velocity or a displacement at each point, lies from the true one.

As in NVlabs/GaussianSTORM@fcd2561, storm/utils/losses.py, after Li et al. 2021 (Neural Scene Flow
Prior, arXiv 2111.01253).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Flow = Float[Array, "*n points 3"]
Values = Float[Array, "*n"]


def scene_flow_metrics(
    predicted: Flow, true: Flow, counted: Bool[Array, "*n points"] | None = None
) -> dict[str, Values]:
    """Means over points; 0 where none is counted.

    Returns:
        "epe3d": the error's length; "acc5", "acc10": share of points whose error is below 0.05 or
        5 %, below 0.1 or 10 %, of the true length; "outlier": above 0.3 or 10 %; "angle": between
        the two, in radians, of points that truly move by more than 0.1.
    """
    counted = jnp.ones(true.shape[:-1], bool) if counted is None else counted
    error, length = (jnp.linalg.norm(x, axis=-1) for x in (predicted - true, true))
    relative = error / (length + 1e-20)
    unit = lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-7)
    cosine = jnp.clip(jnp.sum(unit(predicted) * unit(true), -1), -1 + 1e-7, 1 - 1e-7)
    return {
        "epe3d": masked_mean(error, counted),
        "acc5": masked_mean((error < 0.05) | (relative < 0.05), counted),
        "acc10": masked_mean((error < 0.1) | (relative < 0.1), counted),
        "outlier": masked_mean((error > 0.3) | (relative > 0.1), counted),
        "angle": masked_mean(jnp.arccos(cosine), counted & (length > 0.1)),
    }


def masked_mean(
    values: Float[Array, "*n points"], counted: Bool[Array, "*n points"]
) -> Values:
    """The mean of what is counted; 0 where nothing is."""
    return jnp.where(counted, values, 0).sum(-1) / jnp.maximum(counted.sum(-1), 1)
