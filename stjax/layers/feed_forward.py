"""What a transformer block does to each token by itself."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.activations import gelu


class FeedForward(nn.Module):
    """Two linear maps with an activation between them; dropout after each.

    Attributes:
        hidden: width between the maps.
        dropout: rate, after both maps.
        activation: of the hidden units, or of their gate.
        gated: whether the hidden units are linear and multiplied by an activated gate; with SiLU
            that is SwiGLU (Shazeer 2020, arXiv 2002.05202).
        bias: whether the maps have one.
    """

    hidden: int
    dropout: float = 0.0
    activation: Callable[[Array], Array] = gelu
    gated: bool = False
    bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"], *, train: bool = False) -> Float[Array, "... d"]:
        dense = functools.partial(
            nn.Dense, use_bias=self.bias, dtype=self.dtype, param_dtype=self.param_dtype
        )
        to_hidden = functools.partial(
            dense,
            self.hidden,
            kernel_init=named(self.kernel_init, "embed", "mlp"),
            bias_init=named(nn.initializers.zeros, "mlp"),
        )
        hidden = to_hidden(name="in")(x)
        if self.gated:
            hidden = hidden * self.activation(to_hidden(name="gate")(x))
        else:
            hidden = self.activation(hidden)
        hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        from_hidden = named(self.kernel_init, "mlp", "embed")
        out = dense(x.shape[-1], kernel_init=from_hidden, name="out")(hidden)
        return nn.Dropout(self.dropout)(out, deterministic=not train)


SwiGLU = functools.partial(FeedForward, activation=nn.silu, gated=True)
