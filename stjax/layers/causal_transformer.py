"""A causal transformer over one token a frame, with a key-value cache for streaming."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.sequence import Stack
from stjax.ops.positions import sinusoidal


class Cache(NamedTuple):
    """What attention remembers: the last `capacity` tokens, the latest at the end.

    Slots of tokens before the first hold zeros and are never looked at.
    """

    keys: Float[Array, "b capacity n d"]
    values: Float[Array, "b capacity n d"]
    position: Int[Array, ""]
    """Tokens seen so far."""


class CausalAttention(nn.Module):
    """Attention of every token to itself and to the `capacity - 1` tokens before it.

    Attributes:
        heads: number of heads; they share the channels equally.
        capacity: the longest memory, in tokens.
        dropout: rate on the attention weights.
    """

    heads: int
    capacity: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], state: Cache | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t c"], Cache]:
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {channels} channels")
        types = {
            "kernel_init": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        project = lambda name: nn.DenseGeneral(
            (self.heads, channels // self.heads), **types, name=name
        )(x)
        query, keys, values = project("query"), project("key"), project("value")
        seen = 0
        if state is not None:
            seen = state.position
            keys = jnp.concatenate([state.keys, keys], axis=1)
            values = jnp.concatenate([state.values, values], axis=1)
        y = nn.dot_product_attention(
            query,
            keys,
            values,
            mask=self._visible(seen, x.shape[1], keys.shape[1]),
            dropout_rate=self.dropout,
            dropout_rng=self.make_rng("dropout") if train and self.dropout else None,
            deterministic=not train,
            dtype=self.dtype,
        )
        y = nn.DenseGeneral(channels, axis=(-2, -1), **types, name="out")(y)
        return y, Cache(self._latest(keys), self._latest(values), jnp.int32(seen + x.shape[1]))

    def _visible(self, seen: Int[Array, ""], queries: int, keys: int) -> Bool[Array, "1 1 q k"]:
        """Which keys each query may look at; the last key is the last query's."""
        query = seen + jnp.arange(queries)[:, None]
        key = seen + queries - keys + jnp.arange(keys)
        return ((key >= 0) & (key <= query) & (key > query - self.capacity))[None, None]

    def _latest(self, tokens: Float[Array, "b k n d"]) -> Float[Array, "b capacity n d"]:
        missing = max(self.capacity - tokens.shape[1], 0)
        tokens = jnp.pad(tokens, ((0, 0), (missing, 0), (0, 0), (0, 0)))
        return tokens[:, tokens.shape[1] - self.capacity :]


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); a mixer.

    The MLP's activation is x sigmoid(1.702 x), an approximation of the GELU.
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
        attention = CausalAttention(
            self.heads, self.capacity, self.attention_dropout, **types, name="attention"
        )
        y, state = attention(nn.LayerNorm(**types, name="attention_norm")(x), state, train=train)
        x = x + drop(y)
        y = nn.LayerNorm(**types, name="mlp_norm")(x)
        y = nn.Dense(self.mlp_features, **types, name="mlp_in")(y)
        y = drop(y * nn.sigmoid(1.702 * y), broadcast_dims=(-2,))
        x = x + drop(nn.Dense(x.shape[-1], **types, name="mlp_out")(y))
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
