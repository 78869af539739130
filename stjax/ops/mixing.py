"""Batches mixed with their own reversal: Mixup and CutMix, on the device.

As the video code of SlowFast and UniFormer has them (after timm): sample i is mixed with sample
b - 1 - i, all samples by the same share, and frames of a clip by the same box.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

Video = Float[Array, "b t h w c"]
Targets = Float[Array, "b classes"]


def smoothed(
    labels: Int[Array, " b"], classes: int, smoothing: float = 0.0
) -> Float[Array, "b classes"]:
    """One-hot targets, of which `smoothing` is spread over all classes, the true one included."""
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes


def mixup(x: Shaped[Array, "b ..."], share: Float[Array, ""]) -> Shaped[Array, "b ..."]:
    """share x + (1 - share) x reversed along the batch (Zhang et al. 2017, arXiv 1710.09412)."""
    share = jnp.asarray(share, x.dtype)
    return share * x + (1 - share) * x[::-1]


def cutmix(video: Video, box: Int[Array, "4"]) -> tuple[Video, Float[Array, ""]]:
    """A box of every clip replaced by the reversed batch's (Yun et al. 2019, arXiv 1905.04899).

    Args:
        box: first and last + 1 row, first and last + 1 column.

    Returns:
        The mixed clips, and the share of a frame that is still its own.
    """
    inside, share = _inside(box, *video.shape[2:4])
    return jnp.where(inside[..., None], video[::-1], video), share


def random_box(
    key: Key[Array, ""], height: int, width: int, share: Float[Array, ""]
) -> Int[Array, "4"]:
    """A box that covers 1 - share of the frame, but for what of it lies outside.

    Its centre is uniform; its sides are cut down to even numbers, as published.
    """
    sizes = jnp.array([height, width])
    half = (sizes * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jax.random.randint(key, (2,), 0, sizes)
    first, last = jnp.clip(centre - half, 0, sizes), jnp.clip(centre + half, 0, sizes)
    return jnp.stack([first, last], 1).reshape(4)


def mix(
    key: Key[Array, ""],
    video: Video,
    targets: Targets,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch: float = 0.5,
) -> tuple[Video, Targets]:
    """One draw of Mixup or CutMix for a whole batch and its targets.

    Args:
        mixup_alpha, cutmix_alpha: the share is Beta(alpha, alpha); 0 leaves a method out, both 0
            leave the batch as it is.
        switch: probability of CutMix where both are there.
    """
    if not mixup_alpha and not cutmix_alpha:
        return video, targets
    choose_key, share_key, box_key = jax.random.split(key, 3)
    chance = switch if mixup_alpha and cutmix_alpha else float(bool(cutmix_alpha))
    cut = jax.random.bernoulli(choose_key, chance)
    alpha = jnp.where(cut, cutmix_alpha, mixup_alpha)
    share = jax.random.beta(share_key, alpha, alpha)
    boxed, kept = cutmix(video, random_box(box_key, *video.shape[2:4], share))
    video = jnp.where(cut, boxed, mixup(video, share))
    return video, mixup(targets, jnp.where(cut, kept, share))


def _inside(
    box: Int[Array, "4"], height: int, width: int
) -> tuple[Bool[Array, "h w"], Float[Array, ""]]:
    top, bottom, left, right = box
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return inside, 1 - (bottom - top) * (right - left) / (height * width)
