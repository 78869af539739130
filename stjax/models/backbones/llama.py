"""Decoders of the LLaMA kind: LLaMA 2 and 3, Vicuna, Qwen2, Mistral.

Grouped queries, rotary codes in halves, RMSNorm before each branch, SwiGLU, no biases but those
that Qwen2 has on queries, keys and values. (Touvron et al. 2023, arXiv 2302.13971, section 2.2;
Llama 3: arXiv 2407.21783, table 3; Qwen2: arXiv 2407.10671, section 2.2.)

A `Decoder` maps embedded tokens to hidden states; it is what models that splice other tokens
between those of a text stand on. `Llama` has the table of embeddings and the head besides.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stjax.layers.llama_block import LlamaBlock
from stjax.layers.partitioning import named
from stjax.layers.sequence import Stack
from stjax.ops.attention import Cache, Causal, attention, latest
from stjax.ops.rotary import axial_spectrum, rotary_angles

# Kinds of tokens: nothing attends to padding; what else they tell is the model's affair.
PAD, TEXT, IMAGE = 0, 1, 2

Kinds = Int[Array, "b n"]
fan_in = nn.initializers.lecun_normal()


class State(NamedTuple):
    """What a decoder remembers of a stream: `capacity` tokens, the latest at the end.

    Attributes:
        layers: the layers' caches, stacked.
        kinds: of the tokens kept; None where none were told.
    """

    layers: Cache
    kinds: Int[Array, "b capacity"] | None


def attend(q, k, v, mask, *, kinds: Kinds | None = None, **options: Any) -> Float[Array, "b n h d"]:
    """`stjax.ops.attention.attention` to all tokens that are no padding.

    Args:
        kinds: of the keys; None: there is no padding.
    """
    key_mask = None if kinds is None else kinds != PAD
    return attention(q, k, v, mask, key_mask=key_mask, **options)


class Decoder(nn.Module):
    """Blocks and a last norm over embedded tokens; causal, with a cache.

    A text fed whole, in pieces or token by token gives the same numbers. Positions count from the
    first token fed, padding included: rotary codes see differences alone, so that padding before a
    text changes nothing.

    Attributes:
        depth: number of blocks.
        heads, kv_heads: of queries, and of keys and values.
        hidden: width of the hidden units.
        capacity: the context, in tokens: how many a stream remembers, and a text may have.
        base: of the rotary spectrum.
        qkv_bias: whether queries, keys and values have one (Qwen2).
        attend: what attention is, `attend` unless a paper has another; told the `kinds` of the
            keys.
        remat: compute the blocks' inner values again in the backward pass.
    """

    depth: int
    heads: int
    kv_heads: int
    hidden: int
    capacity: int
    base: float = 500_000.0
    epsilon: float = 1e-5
    qkv_bias: bool = False
    attend: Callable[..., Array] = attend
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        state: State | None = None,
        kinds: Kinds | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b n c"], State]:
        """
        Args:
            state: of the tokens before these; None: there are none.
            kinds: of these tokens; either never told, or always.

        Raises:
            ValueError: more tokens than the context holds.
        """
        if x.shape[1] > self.capacity:
            raise ValueError(f"x: {x.shape}, more tokens than the context of {self.capacity}")
        if state is not None and state.kinds is not None:
            kinds = jnp.concatenate([state.kinds, kinds], 1)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        spectrum = axial_spectrum((x.shape[-1] // self.heads // 2,), self.base)
        block = functools.partial(
            LlamaBlock,
            self.heads,
            self.hidden,
            self.capacity,
            self.kv_heads,
            Causal(),
            rotary=lambda positions: rotary_angles(positions[:, None], spectrum),
            qkv_bias=self.qkv_bias,
            epsilon=self.epsilon,
            kernel_init=fan_in,
            **dtypes,
        )
        x, layers = Stack(block, self.depth, remat=self.remat, name="blocks")(
            x,
            None if state is None else state.layers,
            attend=functools.partial(self.attend, kinds=kinds),
            train=train,
        )
        x = nn.RMSNorm(self.epsilon, name="norm", **dtypes)(x)
        return x, State(layers, None if kinds is None else latest(kinds, self.capacity))


class Llama(nn.Module):
    """A language model: ids to the logits of the next ones.

    Attributes:
        vocabulary, width: number of tokens there are, and channels of their embeddings.
    """

    decoder: Decoder
    vocabulary: int
    width: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "b n"],
        state: State | None = None,
        kinds: Kinds | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b n vocabulary"], State]:
        """Arguments and errors as of `Decoder`."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = embedding(self.vocabulary, self.width, name="embedding", **dtypes)(ids)
        x, state = self.decoder(x, state, kinds, train=train)
        return head(self.vocabulary, name="head", **dtypes)(x), state


embedding = functools.partial(
    nn.Embed, embedding_init=named(nn.linear.default_embed_init, "vocab", "embed")
)
head = functools.partial(nn.Dense, use_bias=False, kernel_init=named(fan_in, "embed", "vocab"))
