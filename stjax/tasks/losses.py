"""Losses between predicted and true frames, in the model's range, between codes, of masks."""

import einops
import jax.numpy as jnp
import optax
from jax import lax
from jax import nn as jnn
from jaxtyping import Array, Bool, Float, Int

from stjax.ops.points import at_points, uncertain_points

Frames = Float[Array, "b t h w c"]


def mse(predicted: Frames, frames: Frames) -> Float[Array, ""]:
    """Mean squared error over all values: OpenSTL, PredFormer, SimVP."""
    return jnp.mean(jnp.square(predicted - frames))


def pixel_loss(
    predicted: Float[Array, "b t h w c"], frames: Float[Array, "b t h w c"], balance: float = 0.5
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """balance * mse + (1 - balance) * l1, and both.

    As published, errors are summed over width and channels and averaged over all other axes.
    """
    error = predicted - frames
    reduce = lambda error: error.sum((-2, -1)).mean()
    parts = {"mse": reduce(jnp.square(error)), "l1": reduce(jnp.abs(error))}
    return balance * parts["mse"] + (1 - balance) * parts["l1"], parts


def token_loss(
    logits: Float[Array, "b t h w codes"],
    tokens: Int[Array, "b t h w"],
    smoothing: float = 0.01,
    excluded: Bool[Array, "b"] | None = None,
) -> Float[Array, ""]:
    """Cross entropy with smoothed labels, summed over the map, averaged over batch and time.

    As published, an excluded sample is not left out of the average: the labels take its logits'
    place, so that it adds a constant.
    """
    codes = logits.shape[-1]
    labels = (1 - smoothing) * jnn.one_hot(tokens, codes, dtype=logits.dtype) + smoothing / codes
    if excluded is not None:
        logits = jnp.where(excluded[:, None, None, None, None], labels, logits)
    return optax.softmax_cross_entropy(logits, labels).sum((-2, -1)).mean()


def causal_token_loss(
    logits: Float[Array, "b t h w codes"],
    tokens: Int[Array, "b t h w"],
    dropped: Bool[Array, "b"],
    context: int,
    smoothing: float = 0.01,
) -> Float[Array, ""]:
    """`token_loss` under causal masking: what each sample is asked for, as published.

    Samples that are told their actions: the predictions of frames from `context` on. The others,
    which see everything: all predictions. `logits[:, k]` predicts `tokens[:, k]`, the codes of
    frame k + 1.
    """
    late = slice(context - 1, None)
    return token_loss(logits[:, late], tokens[:, late], smoothing, dropped) + token_loss(
        logits, tokens, smoothing, ~dropped
    )


def point_losses(
    logits: Float[Array, "b f h w classes"],
    labels: Int[Array, "b f H W"],
    candidates: Float[Array, "b f m 2"],
    anywhere: Float[Array, "b f r 2"],
    uncertain: int,
    labelled: Float[Array, "b f"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy and Dice loss at points: PointRend's, as Mask2Former and Cutie take them.

    Points are `uncertain` of the candidates, where the logits are least certain, and all of those
    drawn anywhere. Logits and labels are interpolated between pixels, so that the map of logits may
    be coarser than that of labels. Cross entropy is averaged over points; Dice, with one added to
    both sides of its fraction, over the classes but the first, which is the background. Both are
    summed over frames and averaged over samples, as published.

    Args:
        labelled: weight of each frame; None: 1.
    """
    frames = lambda x: einops.rearrange(x, "b f ... -> (b f) ...")
    maps, truth = frames(logits), frames(jnn.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
    points = uncertain_points(lax.stop_gradient(maps), frames(candidates), uncertain)
    points = jnp.concatenate([points, frames(anywhere)], 1)
    maps, truth = at_points(maps, points), at_points(truth, points)
    cross_entropy = optax.softmax_cross_entropy(maps, truth).mean(1)
    objects, truth = jnn.softmax(maps)[..., 1:], truth[..., 1:]
    overlap, areas = (objects * truth).sum(1), objects.sum(1) + truth.sum(1)
    dice = (1 - (2 * overlap + 1) / (areas + 1)).mean(-1)
    weights = 1.0 if labelled is None else labelled
    total = lambda x: (x.reshape(logits.shape[:2]) * weights).sum(1).mean()
    return total(cross_entropy), total(dice)


def half_l1(predicted: Frames, frames: Frames) -> Float[Array, ""]:
    """Half the mean absolute error: the mean of both its rectified halves, PredNet's."""
    return jnp.mean(jnp.abs(predicted - frames)) / 2


LOSSES = {
    "mse": mse,
    "half_mse_half_l1": lambda *frames: pixel_loss(*frames)[0],
    "half_l1": half_l1,
}
