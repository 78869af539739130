"""Changes of whole batches, on the device: Mixup, CutMix, random erasing.

As the video code of SlowFast and UniFormer has them (after timm): a batch is mixed with its own
reversal, sample i with sample b - 1 - i, all samples by the same share and the same box.
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


def erase(key: Key[Array, ""], video: Video, probability: float) -> Video:
    """With a probability a box of a clip, in all its frames, becomes normal noise.

    (Zhong et al. 2017, arXiv 1708.04896, by pixels, as timm has it: an area of 0.02 to 1/3 of the
    frame, an aspect of 0.3 to 1/0.3 drawn by its logarithm, the first of ten draws that fits.) The
    video should have mean 0 and variance 1.
    """
    height, width = video.shape[2:4]

    def box(key):
        area_key, aspect_key, fits_key, place_key = jax.random.split(key, 4)
        area = jax.random.uniform(area_key, (10,), minval=0.02, maxval=1 / 3) * height * width
        edge = jnp.log(1 / 0.3)
        aspect = jnp.exp(jax.random.uniform(aspect_key, (10,), minval=-edge, maxval=edge))
        sizes = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect], 1))).astype(jnp.int32)
        frame = jnp.array([height, width])
        fits = jnp.all(sizes < frame, 1)
        size = sizes[jnp.argmax(fits)]
        wanted = jnp.any(fits) & jax.random.bernoulli(fits_key, probability)
        first = jax.random.randint(place_key, (2,), 0, jnp.maximum(frame - size, 0) + 1)
        last = jnp.where(wanted, first + size, first)
        return _inside(jnp.stack([first, last], 1).reshape(4), height, width)[0]

    box_key, noise_key = jax.random.split(key)
    inside = jax.vmap(box)(jax.random.split(box_key, len(video)))[:, None, ..., None]
    return jnp.where(inside, jax.random.normal(noise_key, video.shape, video.dtype), video)


def _inside(
    box: Int[Array, "4"], height: int, width: int
) -> tuple[Bool[Array, "h w"], Float[Array, ""]]:
    top, bottom, left, right = box
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return inside, 1 - (bottom - top) * (right - left) / (height * width)
