"""Blocks of plain transformers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stjax.layers.attention import SelfAttention
from stjax.layers.feed_forward import FeedForward
from stjax.ops.activations import gelu
from stjax.ops.attention import Full, Mask
from stjax.ops.sharding import at_edge


class PreNormBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the vision transformer's (arXiv 2010.11929).

    For `stjax.layers.repeat.repeat`, with one shared argument. Biases everywhere.

    Attributes:
        heads: they share the channels.
        hidden: width of the MLP's hidden units.
        activation: of the hidden units.
        mask, fused: as in `SelfAttention`.
        epsilon: of the LayerNorms.
    """

    heads: int
    hidden: int
    activation: Callable[[Array], Array] = gelu
    mask: Mask = Full()
    fused: bool = True
    epsilon: float = 1e-6
    kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        each: None = None,
        key_mask: Bool[Array, "b n"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], None]:
        """`key_mask` is False for tokens that nobody sees; None: there are no such."""
        del each
        dim, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if dim % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {dim} channels")
        norm = lambda name: nn.LayerNorm(
            self.epsilon, use_fast_variance=False, name=name, **types
        )
        init = {"kernel_init": self.kernel_init}
        attention = SelfAttention(
            self.heads, dim // self.heads, qkv_bias=True, mask=self.mask, fused=self.fused,
            name="attention", **init, **types,
        )
        mlp = FeedForward(
            self.hidden, activation=self.activation, name="feed_forward", **init, **types
        )
        x = at_edge(x)
        x = x + attention(norm("attention_norm")(x), key_mask, train=train)
        x = x + mlp(norm("feed_forward_norm")(x), train=train)
        self.sow("intermediates", "output", x)
        return x, None
