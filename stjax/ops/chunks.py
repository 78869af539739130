"""Chunks of time: what the chunked forms of matrix-state recurrences share.

Inside a chunk these are products of matrices; between chunks, and in a backward pass, there are
only the states at the chunks' ends.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def cut(arrays: Any, size: int) -> Any:
    """Each array (b, t, ...) of a tree as chunks (n, b, size, ...); zeros fill up the last one."""

    def chunks(array):
        widths = [(0, 0), (0, -array.shape[1] % size)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, widths)
        array = array.reshape(array.shape[0], -1, size, *array.shape[2:])
        return jnp.moveaxis(array, 1, 0)

    return jax.tree.map(chunks, arrays)


def scan_chunks(
    body: Callable[[Any, Any], tuple[Any, Float[Array, "b size ..."]]],
    state: Any,
    chunks: Any,
    length: int,
) -> tuple[Float[Array, "b t ..."], Any]:
    """`lax.scan` over chunks that keeps, for the backward pass, the states between them alone.

    Args:
        body: `(state, chunk) -> (state, outputs)`; run twice where there are gradients.
        state: before the first chunk.
        chunks: tree of arrays (n, b, size, ...), as `cut` makes them.
        length: steps that are real; the outputs of those after them are dropped.

    Returns:
        The outputs of all steps, and the last state.
    """
    last, outputs = lax.scan(jax.checkpoint(body, prevent_cse=False), state, chunks)
    outputs = jnp.moveaxis(outputs, 0, 1)
    outputs = outputs.reshape(outputs.shape[0], -1, *outputs.shape[3:])
    return outputs[:, :length], last


def scan_steps(
    step: Callable[[Any, Any], tuple[Any, Float[Array, "b ..."]]],
    state: Any,
    arrays: Any,
    size: int,
) -> tuple[Float[Array, "b t ..."], Any]:
    """`lax.scan` of `step` over axis 1 of `arrays`, its backward pass chunk by chunk.

    A plain scan would keep the states of all steps. Steps of zeros must not change the state.
    """

    def body(state, chunk):
        steps = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), chunk)
        state, outputs = lax.scan(step, state, steps)
        return state, jnp.moveaxis(outputs, 0, 1)

    length = jax.tree.leaves(arrays)[0].shape[1]
    return scan_chunks(body, state, cut(arrays, min(size, length)), length)


def bounded(log_decay: Float[Array, "..."]) -> Float[Array, "..."]:
    """The log decays, but none lower than where exp, and so its gradient, is 0 in their dtype.

    Sums of them are taken apart again by differences: -inf would give NaN there.
    """
    smallest = float(jnp.finfo(log_decay.dtype).smallest_subnormal)
    return jnp.maximum(log_decay, np.log(smallest) - 1)


def masked_exp(exponent: Float[Array, "..."], mask: Any) -> Float[Array, "..."]:
    """exp where the mask is true, else 0; what is masked may overflow and does not matter."""
    return jnp.exp(jnp.where(mask, exponent, -jnp.inf))


def decays_between(total: Float[Array, "... c"]) -> Float[Array, "... c c"]:
    """exp(G_i - G_j), the decay from step j to step i >= j, else 0, from running sums G."""
    earlier = np.tri(total.shape[-1], dtype=bool)
    return masked_exp(total[..., :, None] - total[..., None, :], earlier)
