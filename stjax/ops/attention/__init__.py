"""Attention: one entry that takes the description of a mask and picks the kernel.

No model writes its own softmax over keys: full, causal, windowed and sparse attention all call
`attention`, which knows what is fast where.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stjax.ops import windows
from stjax.ops.attention import chunked
from stjax.ops.attention.chunked import Start
from stjax.ops.attention.masks import (
    EMPTY,
    FULL,
    PARTIAL,
    Blocks,
    BlockSparse,
    Both,
    Causal,
    Dilated,
    Either,
    FrameCausal,
    Full,
    GlobalLocal,
    Mask,
    Neighbourhood,
    SlidingWindow,
    Windows,
)
from stjax.ops.attention.radial import Radial, RadialBlocks

__all__ = [
    "EMPTY",
    "FULL",
    "PARTIAL",
    "BlockSparse",
    "Blocks",
    "Both",
    "Causal",
    "Dilated",
    "Either",
    "FrameCausal",
    "Full",
    "GlobalLocal",
    "Mask",
    "Neighbourhood",
    "Radial",
    "RadialBlocks",
    "SlidingWindow",
    "Windows",
    "attention",
    "merge",
    "naive_attention",
]

METHODS = ("auto", "dense", "chunked", "windowed", "cudnn", "pallas")

Output = Float[Array, "b n h e"]
LogSumExp = Float[Array, "b n h"]


def attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask = Full(),  # noqa: B008
    *,
    bias: Float[Array, "..."] | None = None,
    key_mask: Bool[Array, "b m"] | None = None,
    scale: float | None = None,
    method: str = "auto",
    query_start: Start = 0,
    key_start: Start = 0,
    block: int = 128,
    with_logsumexp: bool = False,
) -> Output | tuple[Output, LogSumExp]:
    """softmax(scale q k^T + bias) v over the keys that the mask shows each query.

    A query that sees no key gets zeros, its log-sum-exp is -inf, and its gradients are zeros.

    Args:
        q: queries.
        k, v: keys and values. Their g heads are shared by the h heads of the queries, h / g each.
        mask: who sees whom, by position.
        bias: broadcasts to (b, h, n, m), and is added to the logits. With `Windows`, three axes
            (h, w, w) are the bias within every window of w tokens.
        key_mask: keys that nobody sees are False.
        scale: d^(-1/2) if None.
        method: "dense" (all logits at once), "chunked" (blocks that the mask leaves, memory linear
            in length), "windowed" (`Windows` alone: dense within each window), "cudnn", "pallas"
            (kernels of GPUs and TPUs), or "auto", what should be the fastest of them.
        query_start, key_start: positions of the first query and of the first key, for caches and
            rings; may be traced.
        block: queries, and keys, to a block, for "chunked" and "pallas".
        with_logsumexp: whether to return the logarithm of the softmax's denominator too.

    Returns:
        (b, n, h, e) in the common dtype of q, k and v, and, if asked for, the log-sum-exp of the
        logits (b, n, h) in float32 (float64 for float64).

    Raises:
        ValueError: shapes that do not fit, each other or the mask; an unknown method, or one that
            has not this mask, these arguments or this backend.
    """
    q, k, v = _checked(q, k, v, mask, bias, key_mask, query_start, key_start, block)
    at_start = chunked.known(query_start, key_start) and (query_start, key_start) == (0, 0)
    backend = jax.default_backend()
    lacks = {
        "windowed": _windowed_lacks(mask, at_start),
        "cudnn": _cudnn_lacks(q, k, v, mask, bias, key_mask, at_start, with_logsumexp, backend),
        "pallas": f"{mask} has no kernel on {backend} yet",
    }
    if method == "auto":
        method = _fastest(q, k, backend, lacks)
    if reason := lacks.get(method):
        raise ValueError(f"method: {method!r} does not take this: {reason}")
    if method not in ("dense", "chunked", "windowed", "cudnn"):
        raise ValueError(f"method: {method!r} is none of {', '.join(map(repr, METHODS))}")

    if method == "windowed":
        y, lse = _windowed(q, k, v, mask, bias, key_mask, scale)
    elif method == "cudnn":
        return _cudnn(q, k, v, mask, scale)
    else:
        bias = _full_bias(bias, mask)
        places = {"query_start": query_start, "key_start": key_start}
        if method == "dense":
            seen = _visible(mask, q.shape[1], k.shape[1], key_mask, **places)
            y, lse = _dense(q, k, v, seen, bias, scale)
        else:
            y, lse = chunked.attend(
                q, k, v, mask, bias=bias, key_mask=key_mask, scale=scale, block=block, **places
            )
    return (y, lse) if with_logsumexp else y


def naive_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask = Full(),  # noqa: B008
    *,
    bias: Float[Array, "..."] | None = None,
    key_mask: Bool[Array, "b m"] | None = None,
    scale: float | None = None,
    query_start: Start = 0,
    key_start: Start = 0,
) -> tuple[Output, LogSumExp]:
    """The definition, exponentials and all: what the methods of `attention` are tested against."""
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    query = query_start + jnp.arange(q.shape[1])
    key = key_start + jnp.arange(k.shape[1])
    seen = mask.visible(query[:, None], key)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None]
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    weights = jnp.where(seen, jnp.exp(logits), 0)
    total = weights.sum(-1, keepdims=True)
    nothing, total = total == 0, jnp.where(total == 0, 1, total)
    lse = jnp.where(nothing, -jnp.inf, jnp.log(total))[..., 0]
    return jnp.einsum("bhnm,bmhe->bnhe", weights / total, v), lse.swapaxes(1, 2)


def merge(parts: Sequence[tuple[Output, LogSumExp]]) -> tuple[Output, LogSumExp]:
    """One result from those over different keys: their mean weighted by exp(lse).

    A key that several parts count counts several times. A query that sees no key in any part gets
    zeros and -inf.
    """
    outputs = jnp.stack([y for y, _ in parts])
    lses = jnp.stack([lse for _, lse in parts])
    top = jax.lax.stop_gradient(lses.max(0))
    top = jnp.where(jnp.isfinite(top), top, 0)
    weights = jnp.exp(lses - top)
    total = weights.sum(0)
    nothing, total = total == 0, jnp.where(total == 0, 1, total)
    y = ((weights / total)[..., None] * outputs).sum(0)
    return y.astype(outputs.dtype), jnp.where(nothing, -jnp.inf, top + jnp.log(total))


def _checked(q, k, v, mask, bias, key_mask, query_start, key_start, block):
    """q, k and v in one dtype; refuses what does not fit."""
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"q: {q.shape} instead of (b, n, h, d)")
    (b, n, h, d), g = q.shape, k.shape[2] if k.ndim == 4 else 0
    if k.ndim != 4 or 0 in k.shape or (k.shape[0], k.shape[3]) != (b, d) or h % g:
        raise ValueError(f"k: {k.shape} with queries of {q.shape}")
    m = k.shape[1]
    if v.ndim != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: {v.shape} with keys of {k.shape}")
    if key_mask is not None and key_mask.shape != (b, m):
        raise ValueError(f"key_mask: {key_mask.shape} instead of {(b, m)}")
    if bias is not None:
        wanted = (b, h, n, m)
        if isinstance(mask, Windows) and bias.ndim == 3:
            wanted = (h,) + (math.prod(mask.window),) * 2
        fits = bias.ndim <= len(wanted) and all(
            ours in (1, theirs) for ours, theirs in zip(bias.shape[::-1], wanted[::-1])
        )
        if not fits:
            raise ValueError(f"bias: {bias.shape} does not broadcast to {wanted}")
    if block < 1:
        raise ValueError(f"block: {block} tokens to a block")
    if chunked.known(query_start, key_start) and (query_start, key_start) == (0, 0):
        mask.check(n, m)
    dtype = jnp.result_type(q, k, v)
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


# How many logits of one head are too many for `auto` to compute at once. On two cores of a CPU
# blocks were faster from 256 x 256 on, forward and backward together: 1.7 times there, 3.6 times at
# 1024 x 1024. On accelerators it is a guess at what memory allows.
_MANY_LOGITS = {"cpu": 256 * 256}
_MANY_ELSEWHERE = 4096 * 4096


def _fastest(q, k, backend, lacks):
    for method in ("windowed", "cudnn", "pallas"):
        if not lacks[method]:
            return method
    logits = q.shape[1] * k.shape[1]
    return "dense" if logits < _MANY_LOGITS.get(backend, _MANY_ELSEWHERE) else "chunked"


def _visible(mask, n, m, key_mask, query_start, key_start):
    """Who sees whom, broadcasting to (b, h, n, m), or None where all see all."""
    if key_mask is None and isinstance(mask, Full) and chunked.known(key_start) and key_start >= 0:
        return None
    query, key = query_start + jnp.arange(n), key_start + jnp.arange(m)
    seen = mask.visible(query[:, None], key)
    return seen if key_mask is None else seen & key_mask[:, None, None]


def _full_bias(bias, mask):
    """The bias with all four axes; that of windows spread over the map."""
    if bias is None:
        return None
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


def _dense(q, k, v, seen, bias, scale):
    """All logits at once. `seen` and `bias` broadcast to (b, h, n, m); None is no restriction."""
    b, n, h, d = q.shape
    _, m, g, e = v.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q = q.reshape(b, n, g, h // g, d)
    logits = jnp.einsum("bngrd,bmgd->bgrnm", q, k, preferred_element_type=dtype)
    logits = logits.reshape(b, h, n, m) * (1 / math.sqrt(d) if scale is None else scale)
    logits = logits if bias is None else logits + bias.astype(dtype)
    logits = logits if seen is None else jnp.where(seen, logits, -jnp.inf)
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    nothing, total = total == 0, jnp.where(total == 0, 1, total)
    shared = weights.astype(v.dtype).reshape(b, g, h // g, n, m)
    y = jnp.einsum("bgrnm,bmge->bngre", shared, v, preferred_element_type=dtype)
    rows = lambda x: x[..., 0].swapaxes(1, 2)
    y = y.reshape(b, n, h, e) / rows(total)[..., None]
    return y.astype(v.dtype), rows(jnp.where(nothing, -jnp.inf, top + jnp.log(total)))


def _windowed_lacks(mask, at_start):
    if not isinstance(mask, Windows):
        return f"{mask} is no mask of windows"
    return "" if at_start else "the map does not start at position 0"


def _windowed(q, k, v, mask, bias, key_mask, scale):
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
    seen = mask.visible(*pairs)[:, None, None] if any(mask.shift) else None
    if key_mask is not None:
        free = cut(key_mask).swapaxes(0, 1)[:, :, None, None]
        seen = free if seen is None else seen & free
    of_map = bias is not None and bias.ndim != 3
    if of_map:
        bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], n, n))
        bias = jnp.moveaxis(bias[:, :, *pairs], 2, 0)
    each = jax.vmap(
        functools.partial(_dense, scale=scale),
        in_axes=(1, 1, 1, None if seen is None else 0, 0 if of_map else None),
        out_axes=1,
    )
    y, lse = each(cut(q), cut(k), cut(v), seen, bias)
    return join(y), join(lse)


def _back(mask):
    return tuple(-s for s in mask.shift)


def _cudnn_lacks(q, k, v, mask, bias, key_mask, at_start, with_logsumexp, backend):
    if backend != "gpu":
        return f"{mask} runs on {backend}, not on a GPU"
    if not isinstance(mask, Full | Causal | SlidingWindow) or mask.after not in (None, 0):
        return f"{mask} is not one of cuDNN's masks"
    if not at_start or q.shape[1] > k.shape[1]:
        return f"{mask} with queries that do not begin with the keys, or outrun them"
    # cuDNN has no gradient of the log-sum-exp, and of the bias only for some shapes.
    if bias is not None or key_mask is not None or with_logsumexp:
        return "there is a bias or a key mask, or the log-sum-exp is wanted"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {q.dtype} is not of 16 bits"
    if q.shape[-1] % 8 or q.shape[-1] > 128 or v.shape[-1] != q.shape[-1]:
        return f"heads of {q.shape[-1]} and {v.shape[-1]} are not alike multiples of 8 up to 128"
    return ""


def _cudnn(q, k, v, mask, scale):
    window = (mask.before, mask.after) if isinstance(mask, SlidingWindow) else None
    causal = not isinstance(mask, Full)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=causal, local_window_size=window, implementation="cudnn"
    )
