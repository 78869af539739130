"""Predictors that learn nothing: what a model must beat."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Context = Float[Array, "b t h w c"]
Future = Float[Array, "b horizon h w c"]


def copy_last(context: Context, horizon: int) -> Future:
    """Nothing moves any more (persistence)."""
    return _hold(context[:, -1], horizon)


def blank(context: Context, horizon: int) -> Future:
    """Black frames."""
    return jnp.zeros_like(copy_last(context, horizon))


def context_mean(context: Context, horizon: int) -> Future:
    """The mean of the frames seen."""
    return _hold(jnp.mean(context, axis=1), horizon)


def training_mean(context: Context, horizon: int, frame: Float[Array, "h w c"]) -> Future:
    """The mean frame of the training videos, whatever was seen."""
    return _hold(jnp.broadcast_to(frame, context[:, -1].shape).astype(context.dtype), horizon)


def mean_frame(videos: Iterable[Float[np.ndarray, "t h w c"]]) -> Float[np.ndarray, "h w c"]:
    """The mean of all frames of videos, read one after the other."""
    frame = total = 0
    for video in videos:
        frame, total = frame + np.sum(video, axis=0, dtype=np.float64), total + len(video)
    if not total:
        raise ValueError("no videos to take the mean frame of")
    return (frame / total).astype(np.float32)


def predictions(
    context: Context, horizon: int, frame: Float[Array, "h w c"] | None = None
) -> dict[str, Future]:
    """Every baseline's prediction by name; `frame` is the training videos' mean frame, if known."""
    named = {f.__name__: f(context, horizon) for f in (copy_last, blank, context_mean)}
    if frame is not None:
        named["training_mean"] = training_mean(context, horizon, frame)
    return named


def _hold(frame: Float[Array, "b h w c"], horizon: int) -> Future:
    return jnp.repeat(frame[:, None], horizon, axis=1)
