"""Residual networks that turn frames into maps and maps into frames.

TECO's (Yan et al., arXiv 2210.02396), which ConvS5 keeps (arXiv 2310.19694). All of them see
single frames: leading axes, time among them, are carried along.
"""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.norm import frame_group_norm
from stjax.layers.partitioning import named


class ResNetBlock(nn.Module):
    """x + 0.1 h, h: twice GroupNorm, ELU, 3x3 convolution.

    Attributes:
        features: channels of the output; where they differ from the input's, a 1x1 convolution
            without bias stands in for x.
        groups: of the GroupNorms.
    """

    features: int
    groups: int = 32
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
            )(nn.elu(h))
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), use_bias=False, **types, name="skip")(x)
        return x + 0.1 * h


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


class ResidualBlock(nn.Module):
    """x + h, h: twice GroupNorm, SiLU, 3x3 convolution.

    The block of latent diffusion's autoencoders (Rombach et al. 2022, arXiv 2112.10752).

    Attributes:
        features: channels of the output; where they differ from the input's, a 1x1 convolution
            stands in for x.
        groups: of the GroupNorms.
    """

    features: int
    groups: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = x
        for k, (before, after) in enumerate((("embed", "mlp"), ("mlp", "embed"))):
            norm = frame_group_norm(self.groups, before, epsilon=1e-6, **types, name=f"norm_{k}")
            h = nn.Conv(
                self.features,
                (3, 3),
                kernel_init=named(nn.initializers.lecun_normal(), None, None, before, after),
                bias_init=named(nn.initializers.zeros, after),
                **types,
                name=f"conv_{k}",
            )(nn.silu(norm(h)))
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), **types, name="skip")(x)
        return x + h
