"""Multi-head attention."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.partitioning import named
from stjax.ops.attention import Cache, Full, Mask, SlidingWindow, attention, extend
from stjax.ops.relative_positions import lag_bias
from stjax.ops.rotary import rotate


class SelfAttention(nn.Module):
    """Every token attends to the tokens of its sequence that the mask shows it.

    Queries, keys and values come from one map, kernel (dim, 3, heads, head_dim), or from one each.

    Attributes:
        heads, head_dim: number and width of the heads; their product need not be the input's width.
        qkv_bias: whether queries, keys and values have a bias.
        project: whether a linear map brings the heads together; without one they are concatenated.
        dropout: rate on what comes out (not on the attention weights).
        out_init: initial kernel of the map that brings the heads together; None: `kernel_init`.
        mask: who sees whom.
        fused: whether one map, "qkv", gives all three, or "query", "key" and "value" one each.
    """

    heads: int
    head_dim: int
    qkv_bias: bool = False
    project: bool = True
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    out_init: nn.initializers.Initializer | None = None
    mask: Mask = Full()
    fused: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        key_mask: Bool[Array, "b n"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n o"]:
        """`key_mask` is False for tokens that nobody sees; None: there are no such."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def project(name, *parts):
            # `parts` lead the heads: queries, keys and values may come from one map.
            names = (*[None] * len(parts), "heads", None)
            return nn.DenseGeneral(
                (*parts, self.heads, self.head_dim),
                use_bias=self.qkv_bias,
                kernel_init=named(self.kernel_init, "embed", *names),
                bias_init=named(nn.initializers.zeros, *names),
                name=name,
                **dtypes,
            )(x)

        if self.fused:
            q, k, v = jnp.moveaxis(project("qkv", 3), -3, 0)
        else:
            q, k, v = map(project, ("query", "key", "value"))
        out = attention(q, k, v, self.mask, key_mask=key_mask)
        if not self.project:
            return out.reshape(*x.shape[:-1], -1)
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            kernel_init=named(self.out_init or self.kernel_init, "heads", None, "embed"),
            name="out",
            **dtypes,
        )(out)
        return nn.Dropout(self.dropout)(out, deterministic=not train)


class CrossAttention(nn.Module):
    """Every token attends to all tokens of another sequence.

    Attributes:
        heads, head_dim: number and width of the heads; their product need not be the input's width.
        bias: whether queries, keys and values have one.
    """

    heads: int
    head_dim: int
    bias: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m k"]
    ) -> Float[Array, "b n d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def project(x, name, *parts):
            # `parts` lead the heads: keys and values come from one map.
            names = (*[None] * len(parts), "heads", None)
            return nn.DenseGeneral(
                (*parts, self.heads, self.head_dim),
                use_bias=self.bias,
                kernel_init=named(self.kernel_init, "embed", *names),
                bias_init=named(nn.initializers.zeros, *names),
                name=name,
                **dtypes,
            )(x)

        keys_values = jnp.moveaxis(project(context, "key_value", 2), -3, 0)
        from_heads = named(self.kernel_init, "heads", None, "embed")
        return nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), kernel_init=from_heads, name="out", **dtypes
        )(attention(project(x, "query"), *keys_values))


class MultiHeadAttention(nn.Module):
    """Queries, keys and values each from a sequence of their own, as `nn.MultiheadAttention`.

    That is what positions are for that are added to queries and keys, and not to values.

    Attributes:
        heads: they share the channels of the queries equally.
    """

    heads: int
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b n d"],
        keys: Float[Array, "b m d"],
        values: Float[Array, "b m d"],
        bias: Float[Array, "..."] | None = None,
        mask: Mask = Full(),  # noqa: B008
        **places: Any,
    ) -> Float[Array, "b n d"]:
        """`bias` is added to the logits: it broadcasts to (b, heads, n, m).

        `mask` and `places`, query_start and key_start: see `stjax.ops.attention.attention`.
        """
        channels = queries.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {channels} channels")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        named_inputs = {"query": queries, "key": keys, "value": values}
        q, k, v = (
            nn.DenseGeneral(
                (self.heads, channels // self.heads),
                kernel_init=named(self.kernel_init, "embed", "heads", None),
                bias_init=named(nn.initializers.zeros, "heads", None),
                name=name,
                **dtypes,
            )(x)
            for name, x in named_inputs.items()
        )
        from_heads = named(self.kernel_init, "heads", None, "embed")
        return nn.DenseGeneral(
            channels, axis=(-2, -1), kernel_init=from_heads, name="out", **dtypes
        )(attention(q, k, v, mask, bias=bias, **places))


class StreamingAttention(nn.Module):
    """Attention over time, with a cache of keys and values; a causal mixer.

    A token sees itself and the `capacity - 1` tokens before it, however the clip is fed.

    Attributes:
        heads: number of heads; they share the channels equally.
        capacity: the longest memory, in tokens.
        kv_heads: heads of keys and values, which divide `heads` (grouped queries, arXiv
            2305.13245); None is as many.
        mask: another mask, such as `FrameCausal`; one that looks back further than the capacity
            sees less in a stream than in a clip fed whole.
        rotary: from the positions of tokens in the stream, (n,), to the angles that queries and
            keys are turned by (see `stjax.ops.rotary`); `interleaved` says which channels pair up.
        qk_norm: `(q, k) -> (q, k)` before that, such as `stjax.layers.norm.QKNorm()`.
        bias: whether queries, keys, values and the output have one.
        out_bias: whether the output has one; None: as `bias` says.
        lags: whether each head has a learned bias for every lag of a key behind its query.
        dropout: rate on the attention weights.
        method: see `stjax.ops.attention.attention`.
    """

    heads: int
    capacity: int
    kv_heads: int | None = None
    mask: Mask | None = None
    rotary: Callable[[Int[Array, "n"]], Float[Array, "n p"]] | None = None
    interleaved: bool = False
    qk_norm: Callable[[Array, Array], tuple[Array, Array]] | None = None
    bias: bool = True
    out_bias: bool | None = None
    lags: bool = False
    dropout: float = 0.0
    method: str = "auto"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Cache | None = None,
        attend: Callable[..., Float[Array, "b t h d"]] = attention,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t c"], Cache]:
        """`attend` stands in for `stjax.ops.attention.attention` and is called as it would be."""
        channels, kv_heads = x.shape[-1], self.kv_heads or self.heads
        if channels % self.heads or self.heads % kv_heads:
            raise ValueError(
                f"heads: {self.heads} do not divide {channels} channels, or {kv_heads} of keys "
                "them"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        project = lambda heads, name: nn.DenseGeneral(
            (heads, channels // self.heads),
            use_bias=self.bias,
            kernel_init=named(self.kernel_init, "embed", "heads", None),
            bias_init=named(nn.initializers.zeros, "heads", None),
            **types,
            name=name,
        )(x)
        query, key = project(self.heads, "query"), project(kv_heads, "key")
        value = project(kv_heads, "value")
        if self.qk_norm is not None:
            query, key = self.qk_norm(query, key)
        seen = 0 if state is None else state.position
        if self.rotary is not None:
            angles = self.rotary(seen + jnp.arange(x.shape[1]))
            turn = lambda x: rotate(x, angles, interleaved=self.interleaved)
            query, key = turn(query), turn(key)
        keys, values, first, cache = extend(state, key, value, self.capacity)
        dropped = self.dropout if train else 0.0
        options = {}
        if self.lags:
            table = named(nn.initializers.zeros, None, "heads")
            shape = self.capacity, self.heads
            table = self.param("lags", table, shape, self.param_dtype)
            # Seen from the first key the places are known, wherever the stream is.
            places = jnp.arange(keys.shape[1])
            options["bias"] = lag_bias(table, places[-x.shape[1] :], places)
        y = attend(
            query,
            keys,
            values,
            SlidingWindow(self.capacity - 1) if self.mask is None else self.mask,
            method=self.method,
            query_start=seen,
            key_start=first,
            dropout=dropped,
            dropout_key=self.make_rng("dropout") if dropped else None,
            over_time=state is None,
            **options,
        )
        out = nn.DenseGeneral(
            channels,
            axis=(-2, -1),
            use_bias=self.bias if self.out_bias is None else self.out_bias,
            kernel_init=named(self.kernel_init, "heads", None, "embed"),
            **types,
            name="out",
        )
        return out(y), cache
