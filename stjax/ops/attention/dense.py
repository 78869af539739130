"""Attention with all logits at once, and the definition."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stjax.ops.attention.chunked import Start, known
from stjax.ops.attention.masks import Full, Mask

Output = Float[Array, "b n h e"]
LogSumExp = Float[Array, "b n h"]


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


def dense(q, k, v, seen, bias, scale, dropout=0.0, dropout_key=None):
    """Output and log-sum-exp. `seen` and `bias` broadcast to (b, h, n, m); None is no restriction.

    Weights are dropped, and the others grow, after the softmax.
    """
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
    if dropout:
        kept = jax.random.bernoulli(dropout_key, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    shared = weights.astype(v.dtype).reshape(b, g, h // g, n, m)
    y = jnp.einsum("bgrnm,bmge->bngre", shared, v, preferred_element_type=dtype)
    rows = lambda x: x[..., 0].swapaxes(1, 2)
    y = y.reshape(b, n, h, e) / rows(total)[..., None]
    return y.astype(v.dtype), rows(jnp.where(nothing, -jnp.inf, top + jnp.log(total)))


def visible(mask, n, m, key_mask, query_start, key_start):
    """Who sees whom, broadcasting to (b, h, n, m), or None where all see all."""
    if key_mask is None and isinstance(mask, Full) and known(key_start) and key_start >= 0:
        return None
    query, key = query_start + jnp.arange(n), key_start + jnp.arange(m)
    seen = mask.visible(query[:, None], key)
    return seen if key_mask is None else seen & key_mask[:, None, None]
