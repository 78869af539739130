"""Discriminators that judge patches, of frames and of clips (PatchGAN, Isola et al. 1611.07004)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.conv import conv
from stjax.ops.precision import promote


class StridedConv(nn.Module):
    """A convolution of frames or clips; see `stjax.ops.conv.conv`."""

    features: int
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    names: tuple[str | None, str | None] = (None, None)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n *grid i"]) -> Float[Array, "n *out features"]:
        shape = (*self.window, x.shape[-1], self.features)
        init = named(nn.initializers.lecun_normal(), *[None] * len(self.window), *self.names)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        zeros = named(nn.initializers.zeros, self.names[1])
        bias = self.param("bias", zeros, (self.features,), self.param_dtype)
        x, kernel, bias = promote((x, kernel, bias), self.dtype)
        return conv(x, kernel, strides=self.strides, padding=self.padding) + bias


class FrameCritic(nn.Module):
    """4x4 convolutions of stride 2 with leaky rectifiers between, then one of stride 1 to a map.

    Without norms: under a gradient penalty a score may depend on its own sample alone.

    Attributes:
        features: channels after each of the strided convolutions.
    """

    features: tuple[int, ...] = (64, 128, 256, 512)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    sees: ClassVar[str] = "frame"

    @nn.compact
    def __call__(self, frame: Float[Array, "b h w c"]) -> Float[Array, "b y x 1"]:
        windows = [((4, 4), (2, 2), (1, 1))] * len(self.features)
        return _judge(self, frame, [*windows, ((4, 4), (1, 1), (1, 1))])


class ClipCritic(nn.Module):
    """(3, 4, 4) convolutions with leaky rectifiers between, then (2, 4, 4) to a map.

    Attributes:
        features: channels after each of the strided convolutions.
        time_strides: theirs along time; over space they go in steps of 2.
    """

    features: tuple[int, ...] = (64, 128, 256, 512)
    time_strides: tuple[int, ...] = (1, 2, 2, 1)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    sees: ClassVar[str] = "clip"

    @nn.compact
    def __call__(self, clip: Float[Array, "b t h w c"]) -> Float[Array, "b s y x 1"]:
        if len(self.time_strides) != len(self.features):
            raise ValueError(f"time_strides: {self.time_strides} for features {self.features}")
        windows = [((3, 4, 4), (stride, 2, 2), (1, 1, 1)) for stride in self.time_strides]
        return _judge(self, clip, [*windows, ((2, 4, 4), (1, 1, 1), (0, 1, 1))])


def _judge(critic, x, windows):
    """Convolutions of (window, strides, padding), the last to one channel."""
    names = ("embed", "mlp")
    for k, (features, window) in enumerate(zip((*critic.features, 1), windows, strict=True)):
        if k:
            x = nn.leaky_relu(x, 0.2)
        last = k == len(critic.features)
        x = StridedConv(
            features, *window, names=(names[k % 2], None if last else names[1 - k % 2]),
            dtype=critic.dtype, param_dtype=critic.param_dtype, name=f"conv_{k}",
        )(x)
    return x
