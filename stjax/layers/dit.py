"""Blocks of diffusion transformers (DiT, Peebles and Xie 2022, arXiv 2212.09748).

What the network is told besides the tokens, the time of the process above all, is one vector a
sample. It scales, shifts and gates every block ("adaLN-Zero"): at the start all gates are zero, and
every block is the identity.

Linear maps start as in the published code: Xavier-uniform, biases zero.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from stjax.layers.attention import SelfAttention
from stjax.layers.feed_forward import FeedForward
from stjax.layers.partitioning import named
from stjax.ops.positions import timestep_code
from stjax.ops.sharding import at_edge

xavier = nn.initializers.xavier_uniform()
# No scale and no bias of its own: those come from the condition.
PlainNorm = functools.partial(
    nn.LayerNorm, 1e-6, use_bias=False, use_scale=False, use_fast_variance=False
)


def modulate(
    x: Float[Array, "b ... d"], shift: Float[Array, "b d"], scale: Float[Array, "b d"]
) -> Float[Array, "b ... d"]:
    """x (1 + scale) + shift, the same for all tokens of a sample."""
    return x * (1 + _to_tokens(scale, x)) + _to_tokens(shift, x)


def gated(y: Float[Array, "b ... d"], gate: Float[Array, "b d"]) -> Float[Array, "b ... d"]:
    """gate y, the same for all tokens of a sample."""
    return y * _to_tokens(gate, y)


class AdaLNZero(nn.Module):
    """From a condition to `parts` vectors of width `dim`: SiLU, then a linear map that starts at 0.

    Attributes:
        parts: how many vectors; a block's are shift, scale, gate, of each branch.
    """

    parts: int
    dim: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, c: Float[Array, "b k"]) -> list[Float[Array, "b dim"]]:
        out = nn.Dense(
            self.parts * self.dim,
            kernel_init=named(nn.initializers.zeros, "embed", None),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="linear",
        )(nn.silu(c))
        return jnp.split(out, self.parts, -1)


class TimestepEmbedding(nn.Module):
    """The time of the diffusion process as a vector: its code, then two linear maps and a SiLU.

    Attributes:
        dim: width of the vector, and of what lies between the maps.
        features: width of the code (see `stjax.ops.positions.timestep_code`).
    """

    dim: int
    features: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, times: Num[Array, "b"]) -> Float[Array, "b dim"]:
        init = nn.initializers.normal(0.02)
        dense = functools.partial(
            nn.Dense, self.dim, dtype=self.dtype, param_dtype=self.param_dtype
        )
        code = timestep_code(times, self.features).astype(self.param_dtype)
        hidden = dense(
            kernel_init=named(init, "embed", "mlp"),
            bias_init=named(nn.initializers.zeros, "mlp"),
            name="in",
        )(code)
        return dense(kernel_init=named(init, "mlp", "embed"), name="out")(nn.silu(hidden))


class LabelEmbedding(nn.Module):
    """A vector for every class, and one more for none, which training also draws.

    Attributes:
        classes: how many; the label `classes` means none.
        dropout: share of the labels that training replaces by none (classifier-free guidance, Ho
            and Salimans 2022, arXiv 2207.12598), by the rng "dropout".
    """

    classes: int
    dim: int
    dropout: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, labels: Int[Array, "b"], *, train: bool = False) -> Float[Array, "b dim"]:
        if train and self.dropout:
            dropped = jax.random.bernoulli(self.make_rng("dropout"), self.dropout, labels.shape)
            labels = jnp.where(dropped, self.classes, labels)
        table = nn.Embed(
            self.classes + 1, self.dim, embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype, param_dtype=self.param_dtype, name="table",
        )
        return table(labels)


class DiTBlock(nn.Module):
    """Attention and a feed-forward map of each token, both modulated and gated by the condition.

    x = x + gate_1 attention(modulate(norm(x))), then x = x + gate_2 mlp(modulate(norm(x))).

    Attributes:
        heads: of the attention, over equal shares of the channels.
        mlp_ratio: hidden units of the feed-forward map over the channels.
        attention: another factory of what mixes tokens, `(x, train=...) -> x` of x's shape, such
            as `stjax.layers.space_time.Over`; None: self-attention over tokens (b, n, d).
        norm: factory of the norms.
    """

    heads: int
    mlp_ratio: float = 4.0
    attention: Callable[..., nn.Module] | None = None
    norm: Callable[..., nn.Module] = PlainNorm
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ... d"], c: Float[Array, "b k"], *, train: bool = False
    ) -> Float[Array, "b ... d"]:
        dim, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = at_edge(x)
        attention = self.attention or functools.partial(self_attention, self.heads, dim, **types)
        shift1, scale1, gate1, shift2, scale2, gate2 = AdaLNZero(6, dim, **types, name="adaln")(c)
        norm = functools.partial(self.norm, dtype=self.dtype)
        y = modulate(norm(name="attention_norm")(x), shift1, scale1)
        x = x + gated(attention(name="attention")(y, train=train), gate1)
        y = modulate(norm(name="feed_forward_norm")(x), shift2, scale2)
        feed_forward = FeedForward(
            int(dim * self.mlp_ratio), activation=nn.gelu, kernel_init=xavier, **types,
            name="feed_forward",
        )
        return x + gated(feed_forward(y, train=train), gate2)


class FinalLayer(nn.Module):
    """From tokens to what is predicted at each: a modulated norm and a linear map that starts at 0.

    Attributes:
        features: numbers predicted at a token.
    """

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ... d"], c: Float[Array, "b k"]
    ) -> Float[Array, "b ... features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shift, scale = AdaLNZero(2, x.shape[-1], **types, name="adaln")(c)
        x = modulate(PlainNorm(dtype=self.dtype, name="norm")(x), shift, scale)
        zeros = named(nn.initializers.zeros, "embed", None)
        return nn.Dense(self.features, kernel_init=zeros, **types, name="linear")(x)


def self_attention(heads: int, dim: int, **options: Any) -> SelfAttention:
    """The published blocks' attention: heads share the channels, biases everywhere, Xavier.

    Raises:
        ValueError: heads that do not divide the channels.
    """
    if dim % heads:
        raise ValueError(f"heads: {heads} do not divide {dim} channels")
    return SelfAttention(heads, dim // heads, qkv_bias=True, kernel_init=xavier, **options)


def _to_tokens(vector, x):
    """(b, d) with axes of length one between, so that it broadcasts against x (b, ..., d)."""
    return vector.reshape(len(vector), *[1] * (x.ndim - 2), vector.shape[-1])
