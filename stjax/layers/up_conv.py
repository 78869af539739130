"""Maps made larger."""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class UpConv(nn.Module):
    """A transposed 2x2 convolution of stride 2: every pixel becomes four, none of which overlap."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w features"]:
        dense = nn.Dense(4 * self.features, False, self.dtype, self.param_dtype, name="pixels")
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x = einops.rearrange(dense(x), "n h w (r s c) -> n (h r) (w s) c", r=2, s=2)
        return x + bias.astype(x.dtype)
