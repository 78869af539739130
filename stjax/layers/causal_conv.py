"""Convolutions of clips in which no frame sees a later one."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.ops.conv import conv


class CausalConv(nn.Module):
    """Convolves over time, height and width; before the first frame stand repetitions of it.

    So a clip's first frame alone gives what it gives at the head of the clip. Around frames there
    are zeros, as many as divide the sides by the strides; an odd one comes last. (Yu et al. 2023,
    MAGVIT-v2, arXiv 2310.05737, section 3.2.)

    Attributes:
        features: channels of the output.
        kernel: its sides, (time, height, width).
        strides: distance between neighbouring outputs along each.
    """

    features: int
    kernel: tuple[int, int, int]
    strides: tuple[int, int, int] = (1, 1, 1)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b s y x features"]:
        shape = (*self.kernel, x.shape[-1], self.features)
        fan_in = x.shape[-1] * self.kernel[0] * self.kernel[1] * self.kernel[2]
        kernel = self.param("kernel", torch_default, shape, self.param_dtype)
        bias = self.param("bias", torch_default_bias(fan_in), (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        zeros = [
            ((side - stride) // 2, side - stride - (side - stride) // 2)
            for side, stride in zip(self.kernel[1:], self.strides[1:])
        ]
        x = jnp.pad(x, ((0, 0), (0, 0), *zeros, (0, 0)))
        x = jnp.concatenate([jnp.repeat(x[:, :1], self.kernel[0] - 1, 1), x], 1)
        return conv(x, kernel, strides=self.strides, padding=(0, 0, 0)) + bias


class FactorizedConv(nn.Module):
    """A convolution of each frame, then one over time at each pixel; both of side 3, causal."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = CausalConv(self.features, (1, 3, 3), **types, name="space")(x)
        return CausalConv(self.features, (3, 1, 1), **types, name="time")(x)
