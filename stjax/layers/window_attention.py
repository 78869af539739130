"""Attention within windows of a map or a clip, and Swin's block of it."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from stjax.layers.feed_forward import FeedForward
from stjax.layers.initializers import torch_default
from stjax.layers.partitioning import named
from stjax.layers.stochastic_depth import DropPath
from stjax.ops import windows
from stjax.ops.attention import Windows, attention
from stjax.ops.sharding import at_edge


class WindowAttention(nn.Module):
    """Every token attends to the tokens of its window, with a learned bias by relative position.

    Swin (Liu et al. 2021, arXiv 2103.14030, section 3.2), on clips Video Swin (arXiv 2106.13230).
    As there, the map is filled up with zeros to whole windows, and tokens attend to those too.
    Where a window is longer than the map it is the map, and is not shifted; its bias is then that
    of the first tokens of the window asked for.

    Attributes:
        heads: number of heads; they share the channels equally.
        window: lengths of a window along each axis of the map.
        shift: how far the windows are moved; () is not at all.
        cyclic: whether moved windows go on over the map's edges, see `Windows`.
        qkv_bias: whether queries, keys and values have a bias.
        dropout: rate on what comes out (not on the attention weights).
    """

    heads: int
    window: tuple[int, ...]
    shift: tuple[int, ...] = ()
    cyclic: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ... c"],
        shifted: bool | Bool[Array, ""] = True,
        *,
        train: bool = False,
    ) -> Float[Array, "b ... c"]:
        """`shifted`: whether to; an array lets layers that do and that do not share a scan."""
        shape, channels = x.shape[1:-1], x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {channels} channels")
        shift = self.shift or (0,) * len(self.window)
        window, shift = windows.fit(shape, self.window, shift)
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, param_dtype=self.param_dtype)
        x = windows.pad(x, window)
        padded = x.shape[1:-1]
        tokens = x.reshape(len(x), -1, channels)
        qkv = dense(
            (3, self.heads, channels // self.heads),
            use_bias=self.qkv_bias,
            kernel_init=named(self.kernel_init, "embed", None, "heads", None),
            bias_init=named(nn.initializers.zeros, None, "heads", None),
            name="qkv",
        )(tokens)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        bias = self._bias(math.prod(window))

        def attend(shift, q, k, v, bias):
            return attention(q, k, v, Windows(padded, window, shift, self.cyclic), bias=bias)

        still, moved = functools.partial(attend, ()), functools.partial(attend, shift)
        if isinstance(shifted, jax.Array):
            y = lax.cond(shifted, moved, still, q, k, v, bias)
        else:
            y = (moved if shifted else still)(q, k, v, bias)
        from_heads = named(self.kernel_init, "heads", None, "embed")
        y = dense(channels, axis=(-2, -1), kernel_init=from_heads, name="out")(y).reshape(x.shape)
        y = y[:, *(slice(n) for n in shape)]
        return nn.Dropout(self.dropout)(y, deterministic=not train)

    def _bias(self, tokens: int) -> Float[Array, "h w w"]:
        index = windows.relative_index(self.window)
        table = self.param(
            "position_bias",
            named(nn.initializers.truncated_normal(0.02), None, "heads"),
            (math.prod(2 * w - 1 for w in self.window), self.heads),
            self.param_dtype,
        )
        return jnp.moveaxis(table[index[:tokens, :tokens]], -1, 0)


class SwinBlock(nn.Module):
    """x + attention(norm(x)) within windows, then x + mlp(norm(x)).

    Attributes:
        heads: number of heads.
        window: lengths of a window along each axis of the map.
        shifted: whether the windows are moved by half their lengths.
        mlp_ratio: width of the hidden units, in channels.
    """

    heads: int
    window: tuple[int, ...]
    shifted: bool = False
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ... c"],
        rate: Float[Array, ""] | None = None,
        beside: Float[Array, "b ... c"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b ... c"]:
        """The block's output.

        Args:
            rate: of stochastic depth; None drops nothing.
            beside: a second map, normalised as x is: attention sees a linear map of both
                (SwinLSTM).
        """
        x = at_edge(x)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, **dtypes)
        attend = WindowAttention(
            self.heads,
            self.window,
            tuple(w // 2 for w in self.window) if self.shifted else (),
            qkv_bias=self.qkv_bias,
            dropout=self.dropout,
            name="attention",
            **dtypes,
        )
        mlp = FeedForward(
            int(self.mlp_ratio * x.shape[-1]), self.dropout, name="feed_forward", **dtypes
        )
        before = norm(name="attention_norm")
        seen = before(x)
        if beside is not None:
            init = named(torch_default, None, "embed")
            join = nn.Dense(x.shape[-1], kernel_init=init, name="join", **dtypes)
            seen = join(jnp.concatenate([seen, before(beside)], -1))
        attended = attend(seen, train=train)
        x = x + DropPath()(attended, rate, train=train)
        out = mlp(norm(name="feed_forward_norm")(x), train=train)
        return x + DropPath()(out, rate, train=train)
