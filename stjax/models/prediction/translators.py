"""What may stand between SimVP's encoder and decoder (OpenSTL, Tan et al. 2023, arXiv 2306.11249).

Blocks that map (b, h, w, c) to the same shape, where the channels are those of all frames: most are
MetaFormers (Yu et al. 2022, arXiv 2111.11418), which mix the pixels and then feed each forward. And
IncepU, SimVP's own U-Net of grouped convolutions.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.attention import SelfAttention
from stjax.layers.convolution import Conv, torch_conv
from stjax.layers.depthwise import DepthwiseConv
from stjax.layers.feed_forward import FeedForward
from stjax.layers.gated_convolution import (
    ChannelAggregation,
    FanOutModule,
    GatedRecursiveConvolution,
    GatedSpatiotemporalAttention,
    LargeKernelAttention,
    Map,
    MixMlp,
    MultiOrderGatedAggregation,
    TemporalAttention,
    check_divisible,
    fan_out_normal,
)
from stjax.layers.repeat import repeat
from stjax.layers.stochastic_depth import DropPath
from stjax.layers.window_attention import WindowAttention
from stjax.models.recognition.uniformer import GlobalBlock, LocalBlock
from stjax.ops.activations import gelu
from stjax.ops.conv import local_mean
from stjax.ops.sharding import at_edge


class Block(FanOutModule):
    """x + scale * mix(norm(x)), then x + scale * feed_forward(norm(x)): a MetaFormer.

    Attributes:
        mlp_ratio: hidden units of the feed-forward map over the channels.
        drop: dropout there, and of what attention gives.
        layer_scale: where the learned factors of both branches start; None: there are none.
        axis_name: mapped axis over which batch statistics are averaged too.
    """

    mlp_ratio: float = 8.0
    drop: float = 0.0
    layer_scale: float | None = None
    axis_name: str | None = None

    # Of LayerNorms; None: batch norms.
    epsilon: ClassVar[float | None] = None

    @nn.compact
    def __call__(
        self,
        x: Map,
        rate: Float[Array, ""] | None = None,
        layer: int | Array = 0,
        *,
        train: bool = False,
    ) -> Map:
        """`rate` is the block's rate of stochastic depth, `layer` its number in the stack."""
        attended = self._mix(self._norm("attention_norm", train)(x), layer, train)
        self.sow("intermediates", "attended", attended)
        x = self._add(x, attended, "attention_scale", rate, train)
        mixed = self._feed_forward(self._norm("mlp_norm", train)(x), train)
        self.sow("intermediates", "mixed", mixed)
        return self._add(x, mixed, "mlp_scale", rate, train)

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        """What a pixel takes from others; a subclass's own."""
        raise NotImplementedError

    def _feed_forward(self, x: Map, train: bool, **options: Any) -> Map:
        hidden = int(x.shape[-1] * self.mlp_ratio)
        mlp = FeedForward(hidden, self.drop, name="mlp", **options, **self._types)
        return mlp(x, train=train)

    def _add(self, x: Map, branch: Map, scale: str, rate: Array | None, train: bool) -> Map:
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            factor = self.param(scale, init, x.shape[-1:], self.param_dtype)
            branch = branch * factor.astype(branch.dtype)
        return x + DropPath()(branch, rate, train=train)

    def _norm(self, name: str, train: bool) -> nn.Module:
        if self.epsilon is not None:
            return nn.LayerNorm(self.epsilon, use_fast_variance=False, name=name, **self._types)
        return nn.BatchNorm(
            not train, momentum=0.9, axis_name=self.axis_name, name=name, **self._types
        )


class VANBlock(Block):
    """Visual Attention Network (arXiv 2202.09741): LKA and MixMlp.

    Attributes:
        kernel_size: side of the attention's kernel.
    """

    layer_scale: float | None = 1e-2
    kernel_size: int = 21

    attention: ClassVar[Callable[..., nn.Module]] = LargeKernelAttention

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        return self.attention(kernel_size=self.kernel_size, name="attention", **self._types)(x)

    def _feed_forward(self, x: Map, train: bool) -> Map:
        mlp = MixMlp(mlp_ratio=self.mlp_ratio, drop=self.drop, name="mlp", **self._types)
        return mlp(x, train=train)


class GSTABlock(VANBlock):
    """Gated spatiotemporal attention, SimVPv2's (arXiv 2211.12509)."""

    attention: ClassVar[Callable[..., nn.Module]] = GatedSpatiotemporalAttention


class TAUBlock(VANBlock):
    """Temporal Attention Unit (Tan et al. 2023, arXiv 2206.12126)."""

    attention: ClassVar[Callable[..., nn.Module]] = TemporalAttention


class MogaBlock(Block):
    """MogaNet (arXiv 2211.03295): gated aggregation of pixels, then of channels."""

    layer_scale: float | None = 1e-5

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        return MultiOrderGatedAggregation(name="attention", **self._types)(x)

    def _feed_forward(self, x: Map, train: bool) -> Map:
        mlp = ChannelAggregation(
            mlp_ratio=self.mlp_ratio, drop=self.drop, name="mlp", **self._types
        )
        return mlp(x, train=train)


class HorNetBlock(Block):
    """HorNet (arXiv 2207.14284): recursive gated convolution."""

    layer_scale: float | None = 1e-6

    epsilon: ClassVar[float | None] = 1e-6

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        return GatedRecursiveConvolution(name="attention", **self._types)(x)


class PoolFormerBlock(Block):
    """PoolFormer (arXiv 2111.11418): the mean of the neighbours, less the pixel itself."""

    layer_scale: float | None = 1e-5

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        return local_mean(x) - x

    def _norm(self, name: str, train: bool) -> nn.Module:
        return nn.GroupNorm(1, epsilon=1e-5, name=name, **self._types)


class MixerBlock(Block):
    """MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601); its weights fix the map's size."""

    epsilon: ClassVar[float | None] = 1e-6

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        batch, *grid, channels = x.shape
        pixels = x.reshape(batch, -1, channels).swapaxes(1, 2)
        mlp = FeedForward(channels // 2, self.drop, name="attention", **self._types)
        return mlp(pixels, train=train).swapaxes(1, 2).reshape(batch, *grid, channels)


class ViTBlock(Block):
    """Vision transformer (arXiv 2010.11929): all pixels attend to all, without positions."""

    heads: int = 8

    epsilon: ClassVar[float | None] = 1e-5

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        batch, *grid, channels = x.shape
        check_divisible("channels", channels, self.heads)
        attention = SelfAttention(
            self.heads, channels // self.heads, qkv_bias=True, dropout=self.drop,
            name="attention", **self._types,
        )
        pixels = x.reshape(batch, -1, channels)
        return attention(pixels, train=train).reshape(batch, *grid, channels)


class SwinBlock(Block):
    """Swin (arXiv 2103.14030): attention within windows, shifted by half in every second block.

    As published the map's height alone says how long windows are: 7 where that divides it, else a
    sixteenth, at least 4 and at most 8.

    Attributes:
        cyclic: whether shifted windows go on over the map's edges, as in the published code, which
            rolls the map and does not mask what comes together.
    """

    heads: int = 8
    cyclic: bool = False

    epsilon: ClassVar[float | None] = 1e-5

    def _mix(self, x: Map, layer: int | Array, train: bool) -> Map:
        height, width, channels = x.shape[1:]
        check_divisible("channels", channels, self.heads)
        side = 7 if height % 7 == 0 else max(4, height // 16)
        side = min(side, 8, height, width)
        shift = side // 2 if side < min(height, width) else 0
        attention = WindowAttention(
            self.heads, (side, side), (shift, shift), self.cyclic, dropout=self.drop,
            name="attention", **self._types,
        )
        return attention(x, layer % 2 == 1, train=train)


class ConvNeXtBlock(Block):
    """ConvNeXt (Liu et al. 2022, arXiv 2201.03545): one branch, x + scale * mlp(norm(conv(x)))."""

    layer_scale: float | None = 1e-6

    epsilon: ClassVar[float | None] = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Map,
        rate: Float[Array, ""] | None = None,
        layer: int | Array = 0,
        *,
        train: bool = False,
    ) -> Map:
        y = DepthwiseConv(7, channels="embed", name="conv", **self._types)(x)
        y = self._norm("norm", train)(y)
        y = self._feed_forward(y, train, kernel_init=fan_out_normal)
        return self._add(x, y, "scale", rate, train)


class ConvMixerBlock(Block):
    """ConvMixer (Trockman and Kolter 2022, arXiv 2201.09792); it drops no paths, and has no MLP.

    Attributes:
        kernel_size: side of the depthwise kernel.
    """

    kernel_size: int = 11

    @nn.compact
    def __call__(
        self,
        x: Map,
        rate: Float[Array, ""] | None = None,
        layer: int | Array = 0,
        *,
        train: bool = False,
    ) -> Map:
        y = DepthwiseConv(self.kernel_size, channels="embed", name="conv", **self._types)(x)
        x = x + self._norm("conv_norm", train)(gelu(y))
        return self._norm("norm", train)(gelu(self._dense(x.shape[-1], "dense")(x)))


class UniFormerBlock(FanOutModule):
    """UniFormer (arXiv 2201.09450): local blocks where channels change, else global ones.

    Attributes:
        mlp_ratio, layer_scale: as in `Block`; local blocks have no layer scales.
        local: which it is.
    """

    mlp_ratio: float = 8.0
    layer_scale: float = 1e-6
    heads: int = 8
    local: bool = False

    @nn.compact
    def __call__(
        self,
        x: Map,
        rate: Float[Array, ""] | None = None,
        layer: int | Array = 0,
        *,
        train: bool = False,
    ) -> Map:
        channels = x.shape[-1]
        check_divisible("channels", channels, self.heads)
        options = {"mlp_ratio": self.mlp_ratio, "epsilon": 1e-5, **self._types}
        if self.local:
            block = LocalBlock(name="local", **options)
        else:
            head_dim = channels // self.heads
            block = GlobalBlock(head_dim, layer_scale=self.layer_scale, name="global", **options)
        return block(x, rate, train)[0]


class Inception(FanOutModule):
    """Channels halved, and the sum of grouped convolutions of four sizes (arXiv 2206.05099).

    Attributes:
        features: channels that come out.
        hidden: channels that are convolved.
        groups: of the convolutions and their norms; 1 where they do not divide `hidden`.
    """

    features: int = 256
    hidden: int = 128
    groups: int = 8

    @nn.compact
    def __call__(self, x: Map, skip: Map | None = None, train: bool = False) -> tuple[Map, Map]:
        """The output, once for the next layer and once for the one that it is a skip of."""
        del train
        x = at_edge(x)
        x = x if skip is None else jnp.concatenate([x, skip], -1)
        x = torch_conv(x, self.hidden, "reduction", **self._types)
        groups = self.groups if self.hidden % self.groups == 0 else 1
        check_divisible("features", self.features, groups)
        out = 0
        for side in (3, 5, 7, 11):
            conv = Conv(
                self.features, (side, side), groups=groups, name=f"conv_{side}", **self._types
            )
            norm = nn.GroupNorm(groups, epsilon=1e-5, name=f"norm_{side}", **self._types)
            out = out + nn.leaky_relu(norm(conv(x)), 0.2)
        self.sow("intermediates", "out", out)
        return out, out


class IncepU(FanOutModule):
    """SimVP's own translator, a U-Net of Inception layers (Gao et al. 2022, arXiv 2206.05099).

    Attributes:
        hid_T: channels between the first layer and the last.
        N_T: layers of the encoder, and of the decoder; two at least.
        groups: of the convolutions.
        remat: compute the layers' inner values again in the backward pass, and do not keep them.
    """

    hid_T: int = 256
    N_T: int = 8
    groups: int = 8
    remat: bool = False

    @nn.compact
    def __call__(self, x: Map, *, train: bool = False) -> Map:
        check_depth(self.N_T)
        features = x.shape[-1]
        options = {"hidden": self.hid_T // 2, "groups": self.groups, **self._types}
        alike = {"features": self.hid_T, **options}
        first, _ = Inception(name="first", **alike)(x)
        encoder = repeat(Inception, self.N_T - 1, self.remat)(name="encoder", **alike)
        x, skips = encoder(first, None, train)
        x, _ = Inception(name="turn", **alike)(x)
        if self.N_T > 2:
            decoder = repeat(Inception, self.N_T - 2, self.remat)(name="decoder", **alike)
            x, _ = decoder(x, skips[-2::-1], train)
        return Inception(features=features, name="last", **options)(x, first)[0]


BLOCKS = {
    "gsta": GSTABlock,
    "tau": TAUBlock,
    "van": VANBlock,
    "moga": MogaBlock,
    "hornet": HorNetBlock,
    "convnext": ConvNeXtBlock,
    "convmixer": ConvMixerBlock,
    "poolformer": PoolFormerBlock,
    "mlp": MixerBlock,
    "vit": ViTBlock,
    "swin": SwinBlock,
    "uniformer": UniFormerBlock,
}


def check_depth(N_T: int) -> None:
    """Raises ValueError where a translator has fewer than two blocks."""
    if N_T < 2:
        raise ValueError(f"N_T: {N_T}; a translator has two blocks at least")
