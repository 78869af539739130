"""Attention within the windows of a map: dense in every one of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from stjax.ops import windows
from stjax.ops.attention.dense import dense
from stjax.ops.attention.masks import Windows


def lacks(mask, at_start):
    """Why this method cannot do it; nothing if it can."""
    if not isinstance(mask, Windows):
        return f"{mask} is no mask of windows"
    return "" if at_start else "the map does not start at position 0"


def windowed(q, k, v, mask, bias, key_mask, scale):
    """Dense attention within every window."""
    b, n = q.shape[:2]

    def cut(x):
        x = x.reshape(len(x), *mask.shape, *x.shape[2:])
        return windows.partition(windows.roll(x, _back(mask)), mask.window)

    def join(x):
        x = windows.roll(windows.reverse(x, mask.window, mask.shape), mask.shift)
        return x.reshape(b, n, *x.shape[1 + len(mask.shape) :])

    place = cut(jnp.arange(n)[None])[0]
    pairs = place[:, :, None], place[:, None]
    cut_by_edges = any(mask.shift) and not mask.cyclic
    seen = mask.visible(*pairs)[:, None, None] if cut_by_edges else None
    if key_mask is not None:
        free = cut(key_mask).swapaxes(0, 1)[:, :, None, None]
        seen = free if seen is None else seen & free
    of_map = bias is not None and bias.ndim != 3
    if of_map:
        bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], n, n))
        bias = jnp.moveaxis(bias[:, :, *pairs], 2, 0)
    each = jax.vmap(
        functools.partial(dense, scale=scale),
        in_axes=(1, 1, 1, None if seen is None else 0, 0 if of_map else None),
        out_axes=1,
    )
    y, lse = each(cut(q), cut(k), cut(v), seen, bias)
    return join(y), join(lse)


def spread(bias, mask):
    """The bias with all four axes, that of windows over the whole map."""
    if isinstance(mask, Windows) and bias.ndim == 3:
        # Where each token stands in its own window; what it meets of others is not seen.
        place = np.arange(math.prod(mask.shape)).reshape(1, *mask.shape)
        tokens = np.arange(math.prod(mask.window))
        cut = windows.partition(np.roll(place, _back(mask), range(1, place.ndim)), mask.window)
        where = np.zeros(place.size, int)
        where[cut[0]] = tokens
        bias = jnp.broadcast_to(bias, (len(bias), len(tokens), len(tokens)))
        bias = bias[:, where[:, None], where]
    return bias.reshape((1,) * (4 - bias.ndim) + bias.shape)


def _back(mask):
    return tuple(-s for s in mask.shift)
