"""How well masks agree: overlap of areas, and distances of contours in pixels.

Definitions are those of MONAI (1.3), which the published figures of echocardiography are computed
with, but for masks without a pixel: see `overlaps` and `surface_distances`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mask = Bool[Array, "*n h w"]
Number = Float[Array, "*n"]


def overlaps(predicted: Mask, true: Mask) -> dict[str, Number]:
    """Dice, IoU, precision, recall, specificity and accuracy of each mask.

    A fraction of nothing is 1: that of two empty masks, the precision where nothing is predicted,
    the recall where there is nothing (MONAI has NaN there and leaves it out of its means).
    """
    count = lambda mask: mask.sum((-2, -1)).astype(jnp.float32)
    both, neither = count(predicted & true), count(~predicted & ~true)
    own, theirs, pixels = count(predicted), count(true), predicted.shape[-2] * predicted.shape[-1]
    share = lambda part, whole: jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)
    return {
        "dice": share(2 * both, own + theirs),
        "iou": share(both, own + theirs - both),
        "precision": share(both, own),
        "recall": share(both, theirs),
        "specificity": share(neither, pixels - theirs),
        "accuracy": (both + neither) / pixels,
    }


def contour(mask: Mask) -> Mask:
    """Pixels of the mask that touch what is not of it by a side; outside the frame nothing is."""
    around = jnp.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    inner = around[..., 1:-1, 1:-1]
    for axis in (-2, -1):
        for step in (-1, 1):
            inner = inner & jnp.roll(around, step, axis)[..., 1:-1, 1:-1]
    return mask & ~inner


def distances(mask: Mask) -> Float[Array, "*n h w"]:
    """From each pixel to the nearest one of the mask; infinite where it is empty.

    Exact: the squared distance is least over the rows of (distance in rows)^2 + the least squared
    distance along that row.
    """

    def squared(size):
        places = jnp.arange(size, dtype=jnp.float32)
        return jnp.square(places[:, None] - places)

    height, width = mask.shape[-2:]
    along = jnp.where(mask[..., None, :], squared(width), jnp.inf).min(-1)
    return jnp.sqrt((along[..., None, :, :] + squared(height)[..., None]).min(-2))


def surface_distances(predicted: Mask, true: Mask) -> dict[str, Number]:
    """"hd95", the 95th percentile of distances between the contours, and "assd", their mean.

    Distances go from each contour's pixels to the other contour. HD95 is the larger one of the two
    directions' percentiles; ASSD is the mean over the pixels of both. Where one of the masks is
    empty both are the frame's diagonal, where both are, zero (MONAI: infinite or NaN).
    """
    ours, theirs = contour(predicted), contour(true)
    there, back = distances(theirs), distances(ours)
    worst = jnp.maximum(_percentile(there, ours, 0.95), _percentile(back, theirs, 0.95))
    total = jnp.where(ours, there, 0).sum((-2, -1)) + jnp.where(theirs, back, 0).sum((-2, -1))
    mean = total / jnp.maximum((ours.sum((-2, -1)) + theirs.sum((-2, -1))), 1)
    some = ours.any((-2, -1)), theirs.any((-2, -1))
    diagonal = float(predicted.shape[-2] ** 2 + predicted.shape[-1] ** 2) ** 0.5
    missing = jnp.where(some[0] | some[1], diagonal, 0.0)
    known = lambda x: jnp.where(some[0] & some[1], x, missing)
    return {"hd95": known(worst), "assd": known(mean)}


def _percentile(values, chosen, share):
    """Of the chosen values of each map, with linear interpolation between two of them."""
    flat = lambda x: x.reshape(*x.shape[:-2], -1)
    values = jnp.sort(jnp.where(flat(chosen), flat(values), jnp.inf), -1)
    place = share * jnp.maximum(flat(chosen).sum(-1, keepdims=True) - 1, 0)
    below = jnp.floor(place).astype(jnp.int32)
    at = lambda k: jnp.take_along_axis(values, jnp.minimum(k, values.shape[-1] - 1), -1)
    low, part = at(below), place - below
    return jnp.where(part > 0, low + part * (at(below + 1) - low), low)[..., 0]
