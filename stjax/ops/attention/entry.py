"""The one entry: what it refuses, and which kernel it takes."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from stjax.ops import sequence_parallel
from stjax.ops.attention import chunked, cudnn, ring, windowed
from stjax.ops.attention.chunked import Start
from stjax.ops.attention.dense import LogSumExp, Output, dense, visible
from stjax.ops.attention.masks import Full, Mask, Windows
from stjax.ops.backend import backend
from stjax.ops.measured import fastest

METHODS = ("auto", "dense", "chunked", "windowed", "cudnn", "pallas")


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
    dropout: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    over_time: bool = False,
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
            in length), "windowed" (`Windows` alone: dense within each window), "cudnn" (full,
            causal and sliding, 16 bits), "pallas" (any mask, cost as its blocks; GPU and TPU), or
            "auto", what should be the fastest of them.
        query_start, key_start: positions of the first query and of the first key, for caches and
            rings; may be traced.
        block: queries, and keys, to a block, for "chunked" and "pallas" (a power of two on a GPU,
            a multiple of 128 on a TPU).
        with_logsumexp: whether to return the logarithm of the softmax's denominator too.
        dropout, dropout_key: rate at which weights are dropped; by "dense" alone.
        over_time: the tokens run along time: under a mesh with an axis "sequence" they are cut over
            its devices, and keys and values travel round them (see `stjax.ops.attention.ring`),
            whatever the method. False for tokens of space.

    Returns:
        (b, n, h, e) in the common dtype of q, k and v, and, if asked for, the log-sum-exp of the
        logits (b, n, h) in float32 (float64 for float64).

    Raises:
        ValueError: shapes that do not fit, each other or the mask; an unknown method, or one that
            has not this mask, these arguments or this backend; tokens that the mesh's axis
            "sequence" does not divide.
    """
    q, k, v = _checked(q, k, v, mask, bias, key_mask, query_start, key_start, block)
    at_start = chunked.known(query_start, key_start) and (query_start, key_start) == (0, 0)
    platform = backend()
    plain = bias is None and key_mask is None
    if over_time and sequence_parallel.ways() > 1:
        if not (at_start and plain) or with_logsumexp or dropout:
            raise ValueError(
                "over_time: tokens cut over devices take no bias, key mask, start, dropout, and "
                "give no log-sum-exp"
            )
        return ring.ring_attention(q, k, v, mask, scale=scale, block=block)
    lacks = {
        "dense": "",
        "chunked": "",
        "windowed": windowed.lacks(mask, at_start),
        "cudnn": cudnn.lacks(q, k, v, mask, at_start and plain and not with_logsumexp, platform),
        "pallas": _pallas_lacks(mask, at_start and plain, platform),
    }
    if dropout:
        lacks |= dict.fromkeys(lacks, "weights are dropped where all of them are at hand") | {
            "dense": ""
        }
    if method == "auto":
        method = _fastest(q, k, lacks)
    if method not in lacks:
        raise ValueError(f"method: {method!r} is none of {', '.join(map(repr, METHODS))}")
    if reason := lacks[method]:
        raise ValueError(f"method: {method!r} does not take this: {reason}")

    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if method == "cudnn":
        return cudnn.cudnn(q, k, v, mask, scale)
    if method == "windowed":
        y, lse = windowed.windowed(q, k, v, mask, bias, key_mask, scale)
    elif method == "pallas":
        y, lse = _kernel(platform)(q, k, v, mask, scale=scale, block_q=block, block_k=block)
    else:
        bias = None if bias is None else windowed.spread(bias, mask)
        places = {"query_start": query_start, "key_start": key_start}
        if method == "dense":
            seen = visible(mask, q.shape[1], k.shape[1], key_mask, **places)
            y, lse = dense(q, k, v, seen, bias, scale, dropout, dropout_key)
        else:
            y, lse = chunked.attend(
                q, k, v, mask, bias=bias, key_mask=key_mask, scale=scale, block=block, **places
            )
    return (y, lse) if with_logsumexp else y


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


def _fastest(q, k, lacks):
    """Windows and cuDNN where they can; else what was measured for about as many logits."""
    measured = fastest("attention", math.isqrt(q.shape[1] * k.shape[1]))
    wanted = "windowed", "cudnn", measured, "dense"
    return next(method for method in wanted if not lacks[method])


def _pallas_lacks(mask, plain, platform):
    if platform not in ("gpu", "tpu"):
        return f"{mask} runs on {platform}, not on a GPU or TPU"
    return "" if plain else "there is a bias, a key mask, or a start other than 0"


def _kernel(platform):
    """The platform's kernel; imported when it is wanted, because Pallas takes a second."""
    if platform == "gpu":
        from stjax.ops.attention.pallas_gpu import block_sparse_attention
    else:
        from stjax.ops.attention.pallas_tpu import block_sparse_attention
    return block_sparse_attention
