"""Convolutions of frames as PyTorch initialises them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.partitioning import named
from stjax.ops.conv import grouped_conv
from stjax.ops.precision import promote


def torch_conv(
    x: Float[Array, "... h w c"],
    features: int,
    name: str,
    side: int = 1,
    *,
    before: str = "embed",
    after: str = "embed",
    kernel_init: nn.initializers.Initializer = torch_default,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> Float[Array, "... h w features"]:
    """x convolved by a new layer of the calling module; of side 1 a linear map of each pixel.

    Args:
        name: of the layer.
        side: of the kernel, odd; zeros around the frame keep its size.
        before, after: names of the channels' axes (`stjax.layers.partitioning`).
    """
    window = (side, side) if side > 1 else ()
    options = {
        "kernel_init": named(kernel_init, *[None] * len(window), before, after),
        "bias_init": named(torch_default_bias(side * side * x.shape[-1]), after),
        "dtype": dtype,
        "param_dtype": param_dtype,
        "name": name,
    }
    layer = nn.Conv(features, window, **options) if window else nn.Dense(features, **options)
    return layer(x)


class GroupedConv(nn.Module):
    """Convolves groups of neighbouring channels apart, of odd side; zeros keep the frame's size.

    Attributes:
        features: channels that come out; each group's are neighbours.
        side: of the kernel.
        groups: how many.
    """

    features: int
    side: int
    groups: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w features"]:
        inputs = x.shape[-1] // self.groups
        shape = (self.side, self.side, inputs, self.features)
        kernel = self.param("kernel", torch_default, shape, self.param_dtype)
        bias_init = torch_default_bias(self.side * self.side * inputs)
        bias = self.param("bias", bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = promote((x, kernel, bias), self.dtype)
        return grouped_conv(x, kernel, self.groups) + bias
