"""Depthwise convolution."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.conv import depthwise_conv
from stjax.ops.precision import promote


class DepthwiseConv(nn.Module):
    """Convolves every channel with its own kernel, kept as (*window, channel), and adds a bias.

    Attributes:
        kernel_size: the window's side along every axis of the grid, or one for each.
        dilation: distance between the pixels under neighbouring entries of the kernel.
        kernel_init: None: as He et al. initialise by fan out, normal of variance 2 over the
            window's entries.
        channels: name of the channels' axis (`stjax.layers.partitioning`).
    """

    kernel_size: int | tuple[int, ...]
    dilation: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    channels: str = "mlp"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b *grid c"]:
        sides = self.kernel_size
        window = (sides,) * (x.ndim - 2) if isinstance(sides, int) else sides
        init = self.kernel_init
        if init is None:
            init = nn.initializers.normal((2 / math.prod(window)) ** 0.5)
        init = named(init, *[None] * len(window), self.channels)
        kernel = self.param("kernel", init, (*window, x.shape[-1]), self.param_dtype)
        x, kernel = promote((x, kernel), self.dtype)
        out = depthwise_conv(x, kernel, self.dilation)
        if not self.use_bias:
            return out
        bias_init = named(self.bias_init, self.channels)
        bias = self.param("bias", bias_init, x.shape[-1:], self.param_dtype)
        return out + bias.astype(out.dtype)
