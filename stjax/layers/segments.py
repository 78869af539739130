"""Transformers that recur: attention segment by segment, with a memory of the segments before."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from stjax.layers.attention import MultiHeadAttention
from stjax.layers.gates import Gate
from stjax.layers.partitioning import named
from stjax.ops.attention import Causal
from stjax.ops.relative_positions import lag_bias


class Stream(NamedTuple):
    """What is remembered of a stream that is cut into segments."""

    memory: Float[Array, "b m c"]
    """Of the segments that are complete."""
    inputs: Float[Array, "b segment c"]
    """Those of the segment that is not, from its first place on."""
    position: Int[Array, ""]
    """Tokens seen so far."""


class Segments(nn.Module):
    """A causal mixer that goes through time segment by segment, with a memory.

    A token sees its own segment up to itself, and the memory that the segments before left. The
    grid of segments is that of the stream, so that clips fed whole, in chunks or step by step give
    the same numbers.

    Attributes:
        attend: factory of what a segment goes through, `(memory, inputs, index) -> (y, memory)`,
            zeros as memory before the first segment, whose index is 0; called with a `name`.
        length: tokens of a segment.
        memory: tokens of the memory.
    """

    attend: Callable[..., nn.Module]
    length: int
    memory: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], state: Stream | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t c"], Stream]:
        del train
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attend, steps, length = self.attend(**types, name="attend"), x.shape[1], self.length
        if state is None:
            memory = jnp.zeros((x.shape[0], self.memory, x.shape[2]), x.dtype)
            seen = begun = 0
            segments = -(-steps // length)
            line = jnp.pad(x, ((0, 0), (0, segments * length - steps), (0, 0)))
        else:
            memory, seen = state.memory, state.position
            begun = seen % length
            segments = (length - 1 + steps - 1) // length + 1
            line = jnp.zeros((x.shape[0], segments * length, x.shape[2]), x.dtype)
            line = lax.dynamic_update_slice_in_dim(line, state.inputs, 0, 1)
            line = lax.dynamic_update_slice_in_dim(line, x, begun, 1)
        end = begun + steps

        def through(attend, memory, at):
            place, inputs = at
            y, after = attend(memory, inputs, seen // length + place)
            return jnp.where((place + 1) * length <= end, after, memory), y

        run = nn.scan(through, variable_broadcast="params", split_rngs={"params": False})
        cut = jnp.moveaxis(line.reshape(line.shape[0], segments, length, -1), 1, 0)
        memory, y = run(attend, memory, (jnp.arange(segments), cut))
        y = jnp.moveaxis(y, 0, 1).reshape(line.shape)
        y = lax.dynamic_slice_in_dim(y, begun, steps, 1)
        # What follows the last complete segment, and room for the rest of its own.
        line = jnp.pad(line, ((0, 0), (0, length), (0, 0)))
        rest = lax.dynamic_slice_in_dim(line, end // length * length, length, 1)
        return y, Stream(memory, rest, jnp.int32(seen + steps))


class PreviousSegment(nn.Module):
    """Attention to the segment and to the one before it, through which no gradient goes.

    (Dai et al. 2019, Transformer-XL, arXiv 1901.02860, section 3.2; in the place of their relative
    codes a learned bias for every head and lag.) Its memory is the segment before.
    """

    heads: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, memory: Float[Array, "b s c"], x: Float[Array, "b s c"], index: Int[Array, ""]
    ) -> tuple[Float[Array, "b s c"], Float[Array, "b s c"]]:
        length = x.shape[1]
        table = _lags(self, 2 * length)
        places = jnp.arange(2 * length)
        keys = jnp.concatenate([lax.stop_gradient(memory), x], 1)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = MultiHeadAttention(self.heads, **types, name="attention")(
            x, keys, keys, lag_bias(table, places[length:], places), Causal(),
            # Before the first segment lies nothing, and its places are negative.
            query_start=index * length, key_start=(index - 1) * length,
        )
        return y, x


class StateTokens(nn.Module):
    """Attention to the segment, and to a state of tokens that every segment rewrites.

        y = attention(x, x) + attention(x, tokens)
        tokens <- gate(tokens, attention(norm(tokens), x))

    (After the block-recurrent transformer, Hutchins et al. 2022, arXiv 2203.07852, section 3, whose
    tokens attend to each other besides.) Before the first segment the tokens are learned ones.

    Attributes:
        tokens: how many.
        gate: how they are rewritten, a key of `stjax.ops.gates.LOGITS`.
    """

    heads: int
    tokens: int
    gate: str = "coupled"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, memory: Float[Array, "b m c"], x: Float[Array, "b s c"], index: Int[Array, ""]
    ) -> tuple[Float[Array, "b s c"], Float[Array, "b m c"]]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = lambda name: MultiHeadAttention(self.heads, **types, name=name)
        learned = named(nn.initializers.normal(1.0), None, "embed")
        learned = self.param("tokens", learned, (self.tokens, x.shape[-1]), self.param_dtype)
        tokens = jnp.where(index == 0, learned.astype(memory.dtype), memory)
        places = jnp.arange(x.shape[1])
        bias = lag_bias(_lags(self, len(places)), places, places)
        y = attention("own")(x, x, x, bias, Causal()) + attention("read")(x, tokens, tokens)
        asking = nn.LayerNorm(**types, name="norm")(tokens)
        written = attention("write")(asking, x, x)
        return y, Gate(self.gate, **types, name="gate")(tokens, written).astype(memory.dtype)


def _lags(module: nn.Module, lags: int) -> Float[Array, "lags h"]:
    """A bias for every lag and head of a module, zero at first."""
    start = named(nn.initializers.zeros, None, "heads")
    return module.param("lags", start, (lags, module.heads), module.param_dtype)
