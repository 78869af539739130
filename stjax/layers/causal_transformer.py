"""A causal transformer over one token a frame, with a key-value cache for streaming."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.attention import StreamingAttention
from stjax.layers.partitioning import named
from stjax.layers.sequence import Stack
from stjax.ops.activations import quick_gelu
from stjax.ops.attention import Cache
from stjax.ops.positions import sinusoidal

lecun_normal = nn.initializers.lecun_normal()


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); a mixer.

    The MLP's activation is `quick_gelu`.
    """

    heads: int
    mlp_features: int
    capacity: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], state: Cache | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t c"], Cache]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = lambda x, **how: nn.Dropout(self.dropout, **how)(x, deterministic=not train)
        attention = StreamingAttention(
            self.heads,
            self.capacity,
            dropout=self.attention_dropout,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            **types,
            name="attention",
        )
        y, state = attention(nn.LayerNorm(**types, name="attention_norm")(x), state, train=train)
        x = x + drop(y)
        y = nn.LayerNorm(**types, name="mlp_norm")(x)
        y = nn.Dense(
            self.mlp_features,
            kernel_init=named(lecun_normal, "embed", "mlp"),
            bias_init=named(nn.initializers.zeros, "mlp"),
            **types,
            name="mlp_in",
        )(y)
        y = drop(quick_gelu(y), broadcast_dims=(-2,))
        y = nn.Dense(
            x.shape[-1], kernel_init=named(lecun_normal, "mlp", "embed"), **types, name="mlp_out"
        )(y)
        x = x + drop(y)
        self.sow("intermediates", "output", x)
        return x, state


class CausalTransformer(nn.Module):
    """Dense, sinusoidal positions, layers, Dense, gelu, LayerNorm; a mixer.

    The baseline of ConvS5 (arXiv 2310.19694), after TECO (Yan et al., arXiv 2210.02396): the same
    numbers while a clip fits the capacity, which the official code requires. Past it, attention
    slides: a token sees the last `capacity` tokens, itself among them, however the clip is fed.
    The state holds the layers' caches, stacked.

    Attributes:
        features: channels inside and of the output.
        depth: number of layers.
        capacity: the longest memory, in tokens.
    """

    features: int
    depth: int
    heads: int
    mlp_features: int
    capacity: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], state: Cache | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t features"], Cache]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = lambda x: nn.Dropout(self.dropout)(x, deterministic=not train)
        seen = 0 if state is None else state.position[0]
        x = nn.Dense(self.features, **types, name="in")(x)
        x = x + sinusoidal(seen + jnp.arange(x.shape[1]), self.features).astype(x.dtype)
        layer = lambda name: TransformerLayer(
            self.heads,
            self.mlp_features,
            self.capacity,
            self.dropout,
            self.attention_dropout,
            **types,
            name=name,
        )
        x, state = Stack(layer, self.depth, remat=self.remat, name="stack")(
            drop(x), state, train=train
        )
        x = nn.gelu(nn.Dense(self.features, **types, name="out")(x))
        return drop(nn.LayerNorm(**types, name="norm")(x)), state
