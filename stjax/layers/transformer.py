"""Blocks of plain transformers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.attention import SelfAttention
from stjax.layers.feed_forward import FeedForward
from stjax.ops.sharding import at_edge


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the vision transformer's (arXiv 2010.11929).

    For `stjax.layers.repeat.repeat`. Biases everywhere, LayerNorms of epsilon 1e-6.

    Attributes:
        heads: they share the channels.
        mlp_ratio: hidden units over channels.
    """

    heads: int
    mlp_ratio: float = 4.0
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], each: None, train: bool
    ) -> tuple[Float[Array, "b n d"], None]:
        dim, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if dim % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {dim} channels")
        norm = lambda name: nn.LayerNorm(1e-6, use_fast_variance=False, name=name, **types)
        init = {"kernel_init": self.kernel_init}
        attention = SelfAttention(
            self.heads, dim // self.heads, qkv_bias=True, name="attention", **init, **types
        )
        mlp = FeedForward(int(dim * self.mlp_ratio), name="feed_forward", **init, **types)
        x = at_edge(x)
        x = x + attention(norm("attention_norm")(x), train=train)
        x = x + mlp(norm("feed_forward_norm")(x), train=train)
        self.sow("intermediates", "out", x)
        return x, None
