"""Convolutions of frames and clips as PyTorch initialises them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.initializers import torch_default, torch_default_bias, torch_default_transposed
from stjax.layers.partitioning import named
from stjax.ops.conv import conv, grouped_conv, transposed_conv
from stjax.ops.precision import promote


class Linear(nn.Module):
    """A layer of one kernel, linear in it, whose parameter is named "kernel".

    What it does with the kernel goes through `linear`, which `stjax.layers.rollout` intercepts to
    take the kernel's gradient once over all steps.
    """

    def linear(self, function: Callable[[Array, Array], Array], x: Array, kernel: Array) -> Array:
        """`function(x, kernel)`, linear in both."""
        return function(x, kernel)


class Conv(Linear):
    """A convolution in one to three dimensions, see `stjax.ops.conv.conv`.

    Attributes:
        features: channels that come out.
        window: sides of the kernel.
        strides, padding: along each axis; None: 1, and zeros that keep the size.
        groups: of neighbouring channels that are convolved apart, at stride 1 and without padding
            of one's own.
        bias_init: None: PyTorch's.
    """

    features: int
    window: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = torch_default
    bias_init: nn.initializers.Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *grid i"]) -> Float[Array, "n *out features"]:
        shape = *self.window, x.shape[-1] // self.groups, self.features
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = promote((x, kernel), self.dtype)
        if self.groups > 1:
            function = functools.partial(grouped_conv, groups=self.groups)
        else:
            function = functools.partial(conv, strides=self.strides, padding=self.padding)
        out = self.linear(function, x, kernel)
        if not self.use_bias:
            return out
        init = self.bias_init or torch_default_bias(math.prod(shape[:-1]))
        return out + self.param("bias", init, shape[-1:], self.param_dtype).astype(out.dtype)


class ConvTranspose(Linear):
    """A transposed convolution of frames, see `stjax.ops.conv.transposed_conv`.

    Attributes:
        features: channels that come out.
        stride: how much finer the frames are that come out.
        side: of the kernel.
    """

    features: int
    stride: int = 1
    side: int = 3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n H W features"]:
        shape = self.side, self.side, x.shape[-1], self.features
        kernel = self.param("kernel", torch_default_transposed, shape, self.param_dtype)
        bias_init = torch_default_bias(self.side**2 * self.features)
        bias = self.param("bias", bias_init, shape[-1:], self.param_dtype)
        x, kernel, bias = promote((x, kernel, bias), self.dtype)
        function = functools.partial(transposed_conv, stride=self.stride)
        return self.linear(function, x, kernel) + bias


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
