"""ConvS5: a linear state-space model whose state, input and output are maps.

Smith, De Mello, Kautz, Linderman, Byeon: Convolutional State Space Models for Long-Range
Spatiotemporal Modeling, arXiv 2310.19694, section 3.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from stjax.layers.norm import frame_group_norm
from stjax.layers.partitioning import named
from stjax.layers.squeeze_excite import SqueezeExcite
from stjax.layers.ssm import DiagonalSSM
from stjax.ops.conv import conv
from stjax.ops.sequence_parallel import over_frames

Maps = Float[Array, "b t h w c"]


class ConvS5(DiagonalSSM):
    """x_k = A x_{k-1} + B * u_k, y_k = readout(2 Re(C * x_k)), with * a convolution of maps.

    A acts pointwise and diagonally, so that the recurrence is elementwise and parallel over time;
    the convolutions see single frames.

    Attributes:
        input_kernel, output_kernel, readout_kernel: sizes of the kernels B, C, and of those of
            the readout.
        readout: "resnet" (published), "standard", "half_glu", "diag_resnet", or "none". (The
            official code builds a "diag_resnet" and never applies it; its behaviour is "none".)
        activation: of the readout.
        groups: groups of its GroupNorms.
        squeeze_excite: weight the readout's channels by the content of the map.
    """

    input_kernel: int = 3
    output_kernel: int = 3
    readout_kernel: int = 3
    readout: str = "resnet"
    activation: Callable[[Array], Array] = nn.gelu
    groups: int = 32
    squeeze_excite: bool = False

    def setup(self) -> None:
        he_normal = nn.initializers.he_normal()
        self._setup_dynamics()
        self._setup_maps(
            he_normal, he_normal, (self.input_kernel,) * 2, (self.output_kernel,) * 2
        )
        self.read = self._readout()

    def __call__(
        self, x: Maps, state: Complex[Array, "b h w p"] | None = None, *, train: bool = False
    ) -> tuple[Maps, Complex[Array, "b h w p"]]:
        y, state = self.linear(x, state)
        return over_frames(self.read, y, x), state

    def _map(self, x: Maps, kernel: Float[Array, "kh kw c f"]) -> Float[Array, "b t h w f"]:
        return over_frames(lambda frames: conv(frames, kernel), x)

    def _readout(self) -> Callable[[Maps, Maps], Maps]:
        options = {
            "activation": self.activation,
            "kernel": self.readout_kernel,
            "groups": self.groups,
            "squeeze_excite": self.squeeze_excite,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        if self.readout == "resnet":
            return ResNetReadout(convolutions=2, **options)
        if self.readout == "diag_resnet":
            return ResNetReadout(convolutions=1, **options)
        if self.readout == "standard":
            return StandardReadout(**options)
        if self.readout == "half_glu":
            return HalfGLU(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.readout == "none":
            return lambda y, x: y
        raise ValueError(
            f"readout: {self.readout!r} is none of 'resnet', 'diag_resnet', 'standard', "
            "'half_glu', 'none'"
        )


class ResNetReadout(nn.Module):
    """activation(y + h), h = GroupNorm, activation, convolution, once more or without the last.

    With two convolutions the published readout, with one "diag_resnet".
    """

    convolutions: int
    activation: Callable[[Array], Array]
    kernel: int
    groups: int
    squeeze_excite: bool
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Maps, x: Maps) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h, middle = y, "mlp" if self.convolutions == 2 else "embed"
        for k, (before, after) in enumerate((("embed", middle), (middle, "embed"))):
            h = frame_group_norm(self.groups, before, **types, name=f"norm_{k}")(h)
            h = self.activation(h)
            if k < self.convolutions:
                h = nn.Conv(
                    y.shape[-1],
                    (self.kernel,) * 2,
                    kernel_init=named(nn.initializers.lecun_normal(), None, None, before, after),
                    bias_init=named(nn.initializers.zeros, after),
                    **types,
                    name=f"conv_{k}",
                )(h)
        if self.squeeze_excite:
            h = SqueezeExcite(**types, name="squeeze_excite")(h)
        return self.activation(y + h)


class StandardReadout(nn.Module):
    """activation(GroupNorm(y + D * x)): the state-space model's own feed-through D."""

    activation: Callable[[Array], Array]
    kernel: int
    groups: int
    squeeze_excite: bool
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Maps, x: Maps) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = y + nn.Conv(y.shape[-1], (self.kernel,) * 2, **types, name="conv")(x)
        y = frame_group_norm(self.groups, **types, name="norm")(y)
        y = self.activation(y)
        return SqueezeExcite(**types, name="squeeze_excite")(y) if self.squeeze_excite else y


class HalfGLU(nn.Module):
    """v * sigmoid(Dense(v)), v = gelu(LayerNorm(y))."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: Maps, x: Maps) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.variance_scaling(0.2, "fan_in", "truncated_normal")
        v = nn.gelu(nn.LayerNorm(**types, name="norm")(y))
        return v * nn.sigmoid(nn.Dense(y.shape[-1], kernel_init=init, **types, name="gate")(v))
