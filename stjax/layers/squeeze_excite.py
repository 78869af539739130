"""Squeeze-and-excitation: channels weighted by what the whole map holds."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named


class SqueezeExcite(nn.Module):
    """x * sigmoid(Dense(relu(Dense(mean over the map)))) (Hu et al., arXiv 1709.01507).

    Attributes:
        reduction: channels are squeezed to c // reduction,
        least: but to no fewer than this.
    """

    reduction: int = 16
    least: int = 4
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init, channels = nn.initializers.lecun_normal(), x.shape[-1]
        y = x.mean(axis=(-3, -2), keepdims=True)
        y = nn.Dense(
            max(channels // self.reduction, self.least),
            kernel_init=named(init, "embed", "mlp"),
            bias_init=named(nn.initializers.zeros, "mlp"),
            **types,
            name="reduce",
        )(y)
        expand = nn.Dense(channels, kernel_init=named(init, "mlp", "embed"), **types, name="expand")
        return x * nn.sigmoid(expand(nn.relu(y)))
