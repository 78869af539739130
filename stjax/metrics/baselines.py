"""Predictors that learn nothing: what a model must beat."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

Context = Float[Array, "b t h w c"]
Frame = Float[Array, "h w c"]
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


# Of clips of which any part is given, and not the first frames alone.


def nearest_given(video: Context, mask: Bool[Array, "t h w"], frame: Frame) -> Context:
    """Every pixel as it was last given, or else as it will be; `frame` where it never is."""
    before, after = _given_about(mask)
    return _completed(video, mask, frame, before, after, before < 0)


def interpolated(video: Context, mask: Bool[Array, "t h w"], frame: Frame) -> Context:
    """A straight line between the times a pixel is given, constant outside; `frame` as above."""
    before, after = _given_about(mask)
    at, inside = jnp.arange(len(mask))[:, None, None], (before >= 0) & (after < len(mask))
    share = jnp.where(inside, (at - before) / jnp.maximum(after - before, 1), before < 0)
    return _completed(video, mask, frame, before, after, share)


def given_mean(video: Context, mask: Bool[Array, "t h w"], frame: Frame) -> Context:
    """The mean of what is given of a pixel; `frame` as above."""
    given = ~mask[..., None]
    count = given.sum(0)
    mean = jnp.where(given, video, 0).sum(1) / jnp.maximum(count, 1)
    return jnp.where(mask[..., None], jnp.where(count > 0, mean, frame)[:, None], video)


def completions(
    video: Context, mask: Bool[Array, "t h w"], frame: Frame
) -> dict[str, Context]:
    """Every such baseline by name, the given pixels among them as they are.

    Args:
        video: the clip; nothing is read where the mask is True.
        mask: True where pixels are to be generated.
        frame: the training videos' mean frame.
    """
    named = {f.__name__: f(video, mask, frame) for f in (nearest_given, interpolated, given_mean)}
    fill = lambda frame: jnp.where(mask[..., None], frame, video)
    return named | {"training_mean": fill(frame), "blank": fill(jnp.zeros_like(frame))}


def _given_about(mask):
    """The last time before each, and the first after, at which a pixel is given: -1, t if none."""
    at = jnp.broadcast_to(jnp.arange(len(mask))[:, None, None], mask.shape)
    before = lax.cummax(jnp.where(mask, -1, at), axis=0)
    return before, lax.cummin(jnp.where(mask, len(mask), at), axis=0, reverse=True)


def _completed(video, mask, frame, before, after, share):
    """`share` of the pixels at times `after` and the rest of those at `before`, under the mask."""
    last = len(mask) - 1
    take = lambda at: jnp.take_along_axis(video, jnp.clip(at, 0, last)[None, ..., None], 1)
    share = jnp.asarray(share, video.dtype)[..., None]
    filled = (1 - share) * take(before) + share * take(after)
    filled = jnp.where(mask.all(0)[..., None], frame, filled)
    return jnp.where(mask[..., None], filled, video)
