"""Convolutions by which pixels weight each other, and feed-forward maps with convolutions in them.

Of networks that keep to convolution and learn from transformers: VAN, gSTA, TAU, MogaNet, HorNet.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.depthwise import DepthwiseConv
from stjax.layers.partitioning import named
from stjax.layers.squeeze_excite import SqueezeExcite
from stjax.ops.activations import gelu

Map = Float[Array, "b h w c"]
fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class FanOutModule(nn.Module):
    """What such modules share: dtypes, and linear maps of pixels initialised by fan out."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def _types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _dense(self, features: int, name: str, before: str = "embed", after: str = "embed"):
        return nn.Dense(
            features,
            kernel_init=named(fan_out_normal, before, after),
            bias_init=named(nn.initializers.zeros, after),
            name=name,
            **self._types,
        )

    def _decomposed(self, x: Map, common: Array) -> Map:
        """MogaNet's feature decomposition: what differs from `common` is learned to count more."""
        init = nn.initializers.constant(1e-5)
        sigma = self.param("sigma", init, x.shape[-1:], self.param_dtype).astype(x.dtype)
        return x + sigma * (x - common)


class LargeKernelAttention(FanOutModule):
    """Pixels weighted by a large kernel's sums, taken apart in two depthwise kernels (VAN's LKA).

    (Guo et al. 2022, arXiv 2202.09741, section 3.1.)

    Attributes:
        kernel_size: side of the large kernel: one of 2 * dilation - 1, then a dilated one.
        dilation: of the second.
        shortcut: whether the input is added.
    """

    kernel_size: int = 21
    dilation: int = 3
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Map) -> Map:
        channels = x.shape[-1]
        far = self.kernel_size // self.dilation
        far -= 1 - far % 2
        hidden = gelu(self._dense(channels, "in", after="mlp")(x))
        seen = DepthwiseConv(2 * self.dilation - 1, name="near", **self._types)(hidden)
        seen = DepthwiseConv(far, self.dilation, name="far", **self._types)(seen)
        gated = self._gated(hidden, seen)
        self.sow("intermediates", "gated", gated)
        out = self._dense(channels, "out")(gated)
        return out + x if self.shortcut else out

    def _gated(self, hidden: Map, seen: Map) -> Map:
        return hidden * self._dense(hidden.shape[-1], "gate", before="mlp")(seen)


class GatedSpatiotemporalAttention(LargeKernelAttention):
    """gSTA's: the large kernel's sums make both value and gate (SimVPv2, arXiv 2211.12509)."""

    def _gated(self, hidden: Map, seen: Map) -> Map:
        both = self._dense(2 * hidden.shape[-1], "gate", before="mlp")(seen)
        value, gate = jnp.split(both, 2, axis=-1)
        return nn.sigmoid(gate) * value


class TemporalAttention(LargeKernelAttention):
    """TAU's: LKA within the frames, squeeze-and-excitation between them (arXiv 2206.12126)."""

    def _gated(self, hidden: Map, seen: Map) -> Map:
        reduction = max(hidden.shape[-1] // 16, 4)
        excite = SqueezeExcite(reduction, least=1, bias=False, name="excite", **self._types)
        return super()._gated(excite(hidden), seen)


class MultiOrderGatedAggregation(FanOutModule):
    """MogaNet's: three orders of depthwise kernels, gated (Li et al., arXiv 2211.03295)."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        channels = x.shape[-1]
        check_divisible("channels", channels, 8)
        hidden = self._dense(channels, "in", after="mlp")(x)
        hidden = nn.silu(self._decomposed(hidden, hidden.mean((1, 2), keepdims=True)))
        low = DepthwiseConv(5, name="low", **self._types)(hidden)
        low, middle, high = jnp.split(low, [channels // 8, channels // 2], axis=-1)
        middle = DepthwiseConv(5, 2, name="middle", **self._types)(middle)
        high = DepthwiseConv(7, 3, name="high", **self._types)(high)
        value = jnp.concatenate([low, middle, high], -1)
        value = nn.silu(self._dense(channels, "value", before="mlp")(value))
        gate = nn.silu(self._dense(channels, "gate", before="mlp")(hidden))
        return self._dense(channels, "out")(gate * value) + x


class GatedRecursiveConvolution(FanOutModule):
    """HorNet's gn-conv: products of `order` factors, each twice as wide as the one before.

    (Rao et al. 2022, arXiv 2207.14284, section 3.1.)
    """

    order: int = 4

    @nn.compact
    def __call__(self, x: Map) -> Map:
        channels = x.shape[-1]
        check_divisible("channels", channels, 2 ** (self.order - 1))
        widths = [channels // 2**i for i in reversed(range(self.order))]
        both = self._dense(2 * channels, "in", after="mlp")(x)
        factor, rest = jnp.split(both, [widths[0]], axis=-1)
        rest = DepthwiseConv(7, name="conv", **self._types)(rest)
        ends = [sum(widths[: i + 1]) for i in range(self.order - 1)]
        first, *others = jnp.split(rest, ends, axis=-1)
        factor = factor * first
        for i, other in enumerate(others):
            factor = self._dense(widths[i + 1], f"widen_{i}")(factor) * other
        return self._dense(channels, "out")(factor)


class MixMlp(FanOutModule):
    """A feed-forward map of each pixel with a 3 x 3 depthwise convolution of its hidden units.

    Attributes:
        mlp_ratio: hidden units over the channels.
        drop: dropout, of the hidden units and of what comes out.
    """

    mlp_ratio: float = 8.0
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: Map, *, train: bool = False) -> Map:
        dropout = nn.Dropout(self.drop, deterministic=not train)
        hidden = self._dense(int(x.shape[-1] * self.mlp_ratio), "in", after="mlp")(x)
        hidden = dropout(gelu(DepthwiseConv(3, name="mix", **self._types)(hidden)))
        return dropout(self._dense(x.shape[-1], "out", before="mlp")(self._aggregated(hidden)))

    def _aggregated(self, hidden: Map) -> Map:
        return hidden


class ChannelAggregation(MixMlp):
    """MogaNet's: MixMlp whose hidden units learn what sets each apart (arXiv 2211.03295)."""

    def _aggregated(self, hidden: Map) -> Map:
        return self._decomposed(hidden, gelu(self._dense(1, "common", before="mlp")(hidden)))


def check_divisible(name: str, number: int, divisor: int) -> None:
    """Raises ValueError where `number`, called `name`, is no multiple of `divisor`."""
    if number % divisor:
        raise ValueError(f"{name}: {number} do not divide by {divisor}")
