"""Channels weighted by what the whole map holds: squeeze-and-excitation, ECA."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.convolution import torch_conv
from stjax.layers.initializers import torch_default
from stjax.layers.partitioning import named
from stjax.ops.conv import conv


class SqueezeExcite(nn.Module):
    """x * sigmoid(Dense(relu(Dense(mean over the map)))) (Hu et al., arXiv 1709.01507).

    Attributes:
        reduction: channels are squeezed to c // reduction,
        least: but to no fewer than this.
        bias: whether the maps have one.
    """

    reduction: int = 16
    least: int = 4
    bias: bool = True
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c"]:
        types = {
            "use_bias": self.bias, "dtype": self.dtype, "param_dtype": self.param_dtype
        }
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


class EfficientChannelAttention(nn.Module):
    """x * sigmoid(a convolution along the channels of the mean over the map).

    (Wang et al. 2020, ECA-Net, arXiv 1910.03151.) The kernel spans (log2 c + 1) / 2 channels,
    rounded down and then up to an odd number.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c"]:
        span = int(math.log2(x.shape[-1]) + 1) // 2 // 2 * 2 + 1
        kernel = self.param("kernel", torch_default, (span, 1, 1), self.param_dtype)
        mean = x.mean((-3, -2))
        along = conv(mean.reshape(-1, x.shape[-1], 1), kernel.astype(x.dtype))
        return x * nn.sigmoid(along).reshape(mean.shape)[..., None, None, :]


class CAResBlock(nn.Module):
    """x + ECA(h), h: twice ReLU and a 3x3 convolution (Cutie, Cheng et al., arXiv 2310.12982)."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = torch_conv(nn.relu(x), x.shape[-1], "conv_0", 3, after="mlp", **types)
        h = torch_conv(nn.relu(h), x.shape[-1], "conv_1", 3, before="mlp", **types)
        return x + EfficientChannelAttention(**types, name="attention")(h)
