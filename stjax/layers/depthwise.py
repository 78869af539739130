"""Depthwise convolution."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.conv import depthwise_conv
from stjax.ops.precision import promote


class DepthwiseConv(nn.Module):
    """Convolves every channel with its own kernel, kept as (row, column, channel), and adds a bias.

    The kernel starts as He et al. initialise by fan out: normal, of variance 2 / kernel_size^2.
    """

    kernel_size: int
    dilation: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1])
        init = nn.initializers.normal(2**0.5 / self.kernel_size)
        kernel = self.param("kernel", named(init, None, None, "mlp"), shape, self.param_dtype)
        zeros = named(nn.initializers.zeros, "mlp")
        bias = self.param("bias", zeros, shape[-1:], self.param_dtype)
        x, kernel, bias = promote((x, kernel, bias), self.dtype)
        return depthwise_conv(x, kernel, self.dilation) + bias
