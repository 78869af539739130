"""Attention over different keys, put together."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from stjax.ops.attention.dense import LogSumExp, Output


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
