"""Residual networks that turn frames into maps and maps into frames.

He et al.'s (arXiv 1512.03385), and TECO's (Yan et al., arXiv 2210.02396), which ConvS5 keeps (arXiv
2310.19694). All of them see single frames: leading axes, time among them, are carried along.
"""

import functools
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.norm import frame_group_norm
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat

Maps = Float[Array, "... h w c"]


class ResidualBlock(nn.Module):
    """relu(x + h), h: convolutions, each with a BatchNorm after it, and ReLUs between them.

    Two of 3x3, or, with a bottleneck, of 1x1, 3x3 and 1x1. (He et al., arXiv 1512.03385; the stride
    lies on the 3x3 one, as in torchvision.) Where the shape changes, a 1x1 convolution with a
    BatchNorm stands in for x.

    Attributes:
        features: channels; with a bottleneck four times as many come out.
        stride: of the first 3x3 convolution.
        bottleneck: whether to narrow before the 3x3 convolution and widen after it.
    """

    features: int
    stride: int = 1
    bottleneck: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, _: None, train: bool) -> tuple[Maps, None]:
        if self.bottleneck:
            wide = 4 * self.features
            plan = [(1, self.features, 1), (3, self.features, self.stride), (1, wide, 1)]
        else:
            plan = [(3, self.features, self.stride), (3, self.features, 1)]
        layer = functools.partial(_conv_norm, self, train=train)
        h = x
        for k, (side, features, stride) in enumerate(plan):
            before, after = "mlp" if k else "embed", "mlp" if k + 1 < len(plan) else "embed"
            h = layer(h if k == 0 else nn.relu(h), features, side, stride, f"{k}", before, after)
        if x.shape != h.shape:
            x = layer(x, h.shape[-1], 1, self.stride, "skip", "embed", "embed")
        return nn.relu(x + h), None


class ResNet(nn.Module):
    """He et al.'s network up to any of its stages: the maps of all of them, finest first.

    A 7x7 convolution and a pooling halve the frame each, every stage but the first halves the map
    once more.

    Attributes:
        depths: blocks of each stage.
        features: of the stem and of the first stage's blocks; every stage doubles them.
        bottleneck: of the blocks.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    features: int = 64
    bottleneck: bool = False
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... H W c"], *, train: bool = False) -> tuple[Maps, ...]:
        leading = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        x = _conv_norm(self, x, self.features, 7, 2, "stem", "embed", "embed", train=train)
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1)))
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        maps = []
        for stage, depth in enumerate(self.depths):
            options = {"features": self.features * 2**stage, "bottleneck": self.bottleneck, **types}
            first = ResidualBlock(stride=2 if stage else 1, **options, name=f"stage_{stage}_first")
            x, _ = first(x, None, train)
            if depth > 1:
                rest = repeat(ResidualBlock, depth - 1, self.remat)
                x, _ = rest(**options, name=f"stage_{stage}")(x, None, train)
            maps.append(x.reshape(*leading, *x.shape[1:]))
        return tuple(maps)


def _conv_norm(module, x, features, side, stride, name, before, after, *, train):
    """A convolution without bias and the BatchNorm after it, as layers of `module`."""
    types = {"dtype": module.dtype, "param_dtype": module.param_dtype}
    x = nn.Conv(
        features,
        (side, side),
        stride,
        padding=side // 2,
        use_bias=False,
        kernel_init=named(
            nn.initializers.variance_scaling(2, "fan_out", "normal"), None, None, before, after
        ),
        name=f"conv_{name}",
        **types,
    )(x)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        scale_init=named(nn.initializers.ones, after),
        bias_init=named(nn.initializers.zeros, after),
        name=f"norm_{name}",
        **types,
    )(x)


class ResNetBlock(nn.Module):
    """x + share h, h: twice GroupNorm, activation, 3x3 convolution.

    Attributes:
        features: channels of the output; where they differ from the input's, a 1x1 convolution
            stands in for x.
        groups: of the GroupNorms.
        skip_bias: whether that convolution has a bias.
    """

    features: int
    groups: int = 32
    activation: Callable[[Array], Array] = nn.elu
    share: float = 0.1
    skip_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = x
        for k, (before, after) in enumerate((("embed", "mlp"), ("mlp", "embed"))):
            h = frame_group_norm(self.groups, before, **types, name=f"norm_{k}")(h)
            h = nn.Conv(
                self.features,
                (3, 3),
                kernel_init=named(nn.initializers.lecun_normal(), None, None, before, after),
                bias_init=named(nn.initializers.zeros, after),
                **types,
                name=f"conv_{k}",
            )(self.activation(h))
        if x.shape[-1] != self.features:
            skip = nn.Conv(self.features, (1, 1), use_bias=self.skip_bias, **types, name="skip")
            x = skip(x)
        return x + self.share * h


# Its fields in latent diffusion's autoencoders (Rombach et al. 2022, arXiv 2112.10752).
LATENT = {"activation": nn.silu, "share": 1.0, "skip_bias": True}


class ResNetEncoder(nn.Module):
    """A convolution and one block at full size, then pooling by two and `blocks` for each depth.

    Attributes:
        depths: channels, from the full size down; the first has one block whatever `blocks` says.
    """

    depths: tuple[int, ...]
    blocks: int = 1
    groups: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... H W channels"]) -> Float[Array, "... h w c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(self.depths[0], (3, 3), **types, name="stem")(x)
        x = ResNetBlock(self.depths[0], self.groups, **types, name="block_0")(x)
        for level, depth in enumerate(self.depths[1:]):
            x = einops.reduce(x, "... (h 2) (w 2) c -> ... h w c", "mean")
            for k in range(self.blocks):
                name = f"block_{1 + level * self.blocks + k}"
                x = ResNetBlock(depth, self.groups, **types, name=name)(x)
        return x


class ResNetDecoder(nn.Module):
    """The encoder's mirror: `blocks` for each depth, from the last, doubling the size between.

    Attributes:
        depths: channels, from the full size down, as in the encoder. The first convolution, at
            the smallest size, goes to the channels of the full size (`depths[0]`), as published.
        features: channels of the output.
    """

    depths: tuple[int, ...]
    features: int
    blocks: int = 1
    groups: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... H W features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(self.depths[0], (3, 3), **types, name="stem")(x)
        for level, depth in enumerate(reversed(self.depths)):
            if level:
                x = einops.repeat(x, "... h w c -> ... (h 2) (w 2) c")
            for k in range(self.blocks):
                name = f"block_{level * self.blocks + k}"
                x = ResNetBlock(depth, self.groups, **types, name=name)(x)
        head = nn.Dense(
            self.features,
            kernel_init=named(nn.initializers.lecun_normal(), "embed", "vocab"),
            bias_init=named(nn.initializers.zeros, "vocab"),
            **types,
            name="head",
        )
        return head(nn.LayerNorm(**types, name="norm")(x))
