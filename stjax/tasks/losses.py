"""Losses between predicted and true frames, in the model's range, between codes, of masks."""

import einops
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax import nn as jnn
from jaxtyping import Array, Bool, Float, Int

from stjax.ops.points import at_points, uncertain_points
from stjax.ops.scales import laplacian_pyramid
from stjax.ops.wavelets import haar

Frames = Float[Array, "b t h w c"]


def mse(predicted: Frames, frames: Frames) -> Float[Array, ""]:
    """Mean squared error over all values: OpenSTL, PredFormer, SimVP."""
    return jnp.mean(jnp.square(predicted - frames))


def differential_divergence(
    predicted: Frames, frames: Frames, temperature: float = 0.1
) -> Float[Array, ""]:
    """TAU's regularisation: how the changes between frames are spread, predicted against true.

    Each change is a distribution over all its values, softmax(change / temperature); the mean over
    batch, changes and values of p log(p / q), p predicted and q true (Tan et al. 2023, arXiv
    2206.12126, eq. 6-7). Zero of fewer than three frames, as in the published code.
    """
    if frames.shape[1] <= 2:
        return jnp.zeros((), frames.dtype)
    spread = lambda video: jnn.softmax(
        einops.rearrange(jnp.diff(video, axis=1), "b t h w c -> b t (h w c)") / temperature
    )
    p, q, least = spread(predicted), spread(frames), 1e-12
    return jnp.mean(p * jnp.log(p / (q + least) + least))


def mse_and_divergence(
    predicted: Frames, frames: Frames, alpha: float = 0.1, temperature: float = 0.1
) -> Float[Array, ""]:
    """TAU's loss: mse + alpha * `differential_divergence`."""
    divergence = differential_divergence(predicted, frames, temperature)
    return mse(predicted, frames) + alpha * divergence


def mse_plus_l1(predicted: Frames, frames: Frames) -> Float[Array, ""]:
    """Mean squared plus mean absolute error over all values: E3D-LSTM."""
    return mse(predicted, frames) + jnp.mean(jnp.abs(predicted - frames))


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


def high_focal_frequency(
    predicted: Frames, frames: Frames, tau: float = 0.1
) -> Float[Array, ""]:
    """Squared error of high frequencies, of which the worst predicted count most: WaST's.

    Of each frame's approximation by Haar wavelets, of half its size, the orthonormal spectrum is
    taken; an error d of it costs w |d|^2, averaged over all frequencies, where w, log(1 + |d|) over
    its largest value in that frame and channel, has no gradient. Entries within tau of the longer
    side from a corner of the spectrum, the low frequencies, cost nothing. (Nie et al. 2024, AAAI,
    WaST, after Jiang et al. 2021, focal frequency loss, arXiv 2012.12821.)
    """
    error = einops.rearrange(predicted - frames, "b t h w c -> (b t) h w c")
    error = haar(error, 1, orthonormal=True)[..., : frames.shape[-1]]
    spectrum = jnp.fft.fft2(error, axes=(1, 2), norm="ortho")
    focus = jnp.log1p(jnp.abs(lax.stop_gradient(spectrum)))
    worst = focus.max((1, 2), keepdims=True)
    focus = focus / jnp.where(worst > 0, worst, 1)
    height, width = error.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    rows, columns = np.minimum(rows, rows[::-1]), np.minimum(columns, columns[:, ::-1])
    high = np.hypot(rows, columns) > tau * max(height, width)
    distance = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.mean(focus * distance * high[..., None])


def mse_and_high_frequencies(
    predicted: Frames, frames: Frames, weight: float = 1e-3
) -> Float[Array, ""]:
    """WaST's loss."""
    return mse(predicted, frames) + weight * high_focal_frequency(predicted, frames)


def laplacian(
    predicted: Float[Array, "n b t h w c"],
    frames: Frames,
    gamma: float = 0.8,
    levels: int | None = None,
) -> Float[Array, ""]:
    """Mean absolute error of each level of a Laplacian pyramid, summed: DMVFN's.

    (Hu et al. 2023, arXiv 2303.09875, section 3.4, but for the term in VGG19's features.)

    Args:
        predicted: the prediction after each of n refinements; that after the i-th of them, from 0,
            weighs gamma^(n - 1 - i).
        levels: of the pyramid; None: 5, or 3 where frames are no wider than 32 pixels.
    """
    levels = levels or (5 if frames.shape[-2] > 32 else 3)
    weights = gamma ** np.arange(len(predicted))[::-1]
    pyramid = laplacian_pyramid(predicted - frames, levels)
    # Where nothing is wrong, as on a black ground, there is no gradient; that of jnp.abs is 1.
    errors = (level * lax.stop_gradient(jnp.sign(level)) for level in pyramid)
    return sum(weights @ error.mean(range(1, 6)) for error in errors)


def half_l1(predicted: Frames, frames: Frames) -> Float[Array, ""]:
    """Half the mean absolute error: the mean of both its rectified halves, PredNet's."""
    return jnp.mean(jnp.abs(predicted - frames)) / 2


LOSSES = {
    "mse": mse,
    "mse_plus_l1": mse_plus_l1,
    "mse_and_divergence": mse_and_divergence,
    "half_mse_half_l1": lambda *frames: pixel_loss(*frames)[0],
    "mse_and_high_frequencies": mse_and_high_frequencies,
    "laplacian": laplacian,
    "half_l1": half_l1,
}
