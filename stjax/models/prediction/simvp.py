"""SimVP (Gao et al. 2022, arXiv 2206.05099) with gSTA (SimVPv2, Tan et al. 2022, arXiv 2211.12509).

A convolutional encoder and decoder of single frames, and between them a translator: a stack of
blocks that see all frames at once, folded into channels. All frames are predicted at once.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.depthwise import DepthwiseConv
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.stochastic_depth import DropPath
from stjax.ops.activations import gelu
from stjax.ops.patches import unpatchify
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvSC(nn.Module):
    """A convolution that may halve or double the resolution, GroupNorm of two groups, SiLU.

    Attributes:
        features: channels that come out.
        kernel_size: side of the kernel.
        down, up: stride 2; or four times the channels, shuffled into pixels.
    """

    features: int
    kernel_size: int = 3
    down: bool = False
    up: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        stride = 2 if self.down else 1
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(
            self.features * (4 if self.up else 1),
            (self.kernel_size, self.kernel_size),
            stride,
            # On both sides alike, where "SAME" would pad one side more at stride 2.
            padding=(self.kernel_size - stride + 1) // 2,
            kernel_init=nn.initializers.normal(0.02),
            name="conv",
            **dtypes,
        )(x)
        if self.up:
            x = unpatchify(x, 2, order="channel row column")
        return nn.silu(nn.GroupNorm(2, epsilon=1e-5, name="norm", **dtypes)(x))


class GatedSpatiotemporalAttention(nn.Module):
    """gSTA's attention: a large kernel, taken apart in two depthwise ones, makes value and gate.

    Attributes:
        kernel_size: side of the large kernel: one of 2 * dilation - 1, then a dilated one.
        dilation: of the second.
        shortcut: whether the input is added.
    """

    kernel_size: int = 21
    dilation: int = 3
    shortcut: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into_hidden, out_of_hidden = _hidden(dtypes)
        far = self.kernel_size // self.dilation
        far -= 1 - far % 2
        hidden = gelu(into_hidden(channels, name="in")(x))
        hidden = DepthwiseConv(2 * self.dilation - 1, name="near", **dtypes)(hidden)
        hidden = DepthwiseConv(far, self.dilation, name="far", **dtypes)(hidden)
        value, gate = jnp.split(out_of_hidden(2 * channels, name="gate")(hidden), 2, axis=-1)
        gated = nn.sigmoid(gate) * value
        self.sow("intermediates", "gated", gated)
        out = nn.Dense(channels, kernel_init=fan_out_normal, name="out", **dtypes)(gated)
        return out + x if self.shortcut else out


class MixMlp(nn.Module):
    """A feed-forward map of each pixel with a 3 x 3 depthwise convolution of its hidden units."""

    hidden: int
    drop: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        into_hidden, out_of_hidden = _hidden(dtypes)
        dropout = nn.Dropout(self.drop, deterministic=not train)
        hidden = DepthwiseConv(3, name="mix", **dtypes)(into_hidden(self.hidden, name="in")(x))
        return dropout(out_of_hidden(x.shape[-1], name="out")(dropout(gelu(hidden))))


class GSTABlock(nn.Module):
    """Batch norm and attention, then batch norm and MixMlp, both residual with a layer scale.

    Attributes:
        kernel_size: side of the attention's kernel.
        mlp_ratio: hidden units of the MixMlp over the input's channels.
        drop: dropout of the MixMlp.
        layer_scale: where the layer scales start.
        axis_name: mapped axis over which batch statistics are averaged too.
    """

    kernel_size: int = 21
    mlp_ratio: float = 8.0
    drop: float = 0.0
    layer_scale: float = 1e-2
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], rate: Float[Array, ""] | None = None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """`rate` is the block's rate of stochastic depth."""
        channels = x.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = GatedSpatiotemporalAttention(self.kernel_size, name="attention", **dtypes)
        mlp = MixMlp(int(channels * self.mlp_ratio), self.drop, name="mlp", **dtypes)
        attended = attention(self._norm("attention_norm", train)(x))
        self.sow("intermediates", "attended", attended)
        x = x + DropPath()(self._scale("attention_scale", attended), rate, train=train)
        mixed = mlp(self._norm("mlp_norm", train)(x), train=train)
        self.sow("intermediates", "mixed", mixed)
        return x + DropPath()(self._scale("mlp_scale", mixed), rate, train=train)

    def _norm(self, name, train):
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    def _scale(self, name, x):
        init = nn.initializers.constant(self.layer_scale)
        return x * self.param(name, init, x.shape[-1:], self.param_dtype).astype(x.dtype)


class MetaBlock(nn.Module):
    """A block that keeps its channels, and a linear map of each pixel where they must change."""

    block: Callable[..., nn.Module]
    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x, rate, train):
        block = self.block(dtype=self.dtype, param_dtype=self.param_dtype, name="block")
        x = block(at_edge(x), rate, train=train)
        if x.shape[-1] != self.features:
            x = pointwise(x, self.features, "reduction", self.dtype, self.param_dtype)
        self.sow("intermediates", "out", x)
        return x, None


class Translator(nn.Module):
    """A plain stack of blocks: the first and the last as wide as all frames' channels together.

    Attributes:
        block: factory of a block, `block(dtype=, param_dtype=, name=)(x, rate, train=)`.
        hid_T: channels between the first block and the last.
        N_T: number of blocks, two at least.
        drop_path: rate of stochastic depth at the last block. It runs there linearly from 0.01 at
            the first, also where it is 0, as published; None drops nothing.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    block: Callable[..., nn.Module] = GSTABlock
    hid_T: int = 512
    N_T: int = 8
    drop_path: float | None = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Array:
        if self.N_T < 2:
            raise ValueError(f"a translator has two blocks at least, not N_T={self.N_T}")
        rates = [None] * self.N_T
        middle = None
        if self.drop_path is not None:
            rates = np.linspace(0.01, self.drop_path, self.N_T)
            middle = rates[1:-1]
        fields = {"block": self.block, "dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        x, _ = MetaBlock(features=self.hid_T, name="first", **fields)(x, rates[0], train)
        if self.N_T > 2:
            blocks = repeat(MetaBlock, self.N_T - 2, self.remat)
            x, _ = blocks(features=self.hid_T, name="middle", **fields)(x, middle, train)
        x, _ = MetaBlock(features=channels, name="last", **fields)(x, rates[-1], train)
        return x


class SimVP(nn.Module):
    """Predicts as many frames as it is given; their number is fixed by the weights.

    Attributes:
        hid_S: channels of the encoder and the decoder.
        N_S: layers of each; every second one halves or doubles the resolution.
        translator: factory of what stands between, `translator(dtype=, param_dtype=, name=)`, a
            module from (b, h, w, t * hid_S) to the same shape.
        spatio_kernel_enc, spatio_kernel_dec: sides of the kernels of encoder and decoder.
    """

    hid_S: int = 64
    N_S: int = 4
    translator: Callable[..., nn.Module] = Translator
    spatio_kernel_enc: int = 3
    spatio_kernel_dec: int = 3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "clip"

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t height width c"], *, train: bool = False
    ) -> Float[Array, "b t height width c"]:
        """The next t frames.

        Raises:
            ValueError: fewer than two layers, or a height or width that they do not divide.
        """
        steps, height, width, channels = video.shape[1:]
        self._check(height, width)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        latent, skip = over_frames(self._encode, video)
        # Channel t * hid_S + s of the translator is channel s of frame t.
        folded = einops.rearrange(latent, "b t h w c -> b h w (t c)")
        folded = self.translator(name="translator", **dtypes)(folded, train=train)
        self.sow("intermediates", "translated", folded)
        latent = einops.rearrange(folded, "b h w (t c) -> b t h w c", t=steps)
        return over_frames(functools.partial(self._decode, channels), latent, skip)

    def _encode(self, frames):
        """Latent maps, and the first layer's, which the last of the decoder sees again."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        latent = frames
        for i, down in enumerate(self._resampled):
            layer = ConvSC(
                self.hid_S, self.spatio_kernel_enc, down=down, name=f"encoder_{i}", **dtypes
            )
            latent = layer(latent)
            if i == 0:
                skip = latent
        self.sow("intermediates", "skip", skip)
        self.sow("intermediates", "embedded", latent)
        return latent, skip

    def _decode(self, channels, latent, skip):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, up in enumerate(reversed(self._resampled)):
            layer = ConvSC(self.hid_S, self.spatio_kernel_dec, up=up, name=f"decoder_{i}", **dtypes)
            latent = layer(latent + skip if i == len(self._resampled) - 1 else latent)
        return pointwise(latent, channels, "readout", **dtypes)

    @property
    def _resampled(self):
        """Whether the encoder's layers halve the resolution; an odd last layer is left out."""
        return [False, True] * (self.N_S // 2)

    def _check(self, height, width):
        if self.N_S < 2:
            raise ValueError(f"encoder and decoder have two layers at least, not N_S={self.N_S}")
        factor = 2 ** (self.N_S // 2)
        if height % factor or width % factor:
            raise ValueError(
                f"frames of {height} x {width} pixels do not divide by {factor} = 2^(N_S / 2)"
            )


def pointwise(x: Array, features: int, name: str, dtype: Any, param_dtype: Any) -> Array:
    """A linear map of each pixel, with PyTorch's default initialisation."""
    return nn.Dense(
        features,
        kernel_init=torch_default,
        bias_init=torch_default_bias(x.shape[-1]),
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )(x)


def _hidden(dtypes: dict[str, Any]) -> tuple[Callable[..., nn.Dense], Callable[..., nn.Dense]]:
    """Factories of linear maps into hidden channels and out of them."""
    dense = functools.partial(nn.Dense, **dtypes)
    into_hidden = functools.partial(
        dense,
        kernel_init=named(fan_out_normal, "embed", "mlp"),
        bias_init=named(nn.initializers.zeros, "mlp"),
    )
    out_of_hidden = functools.partial(dense, kernel_init=named(fan_out_normal, "mlp", "embed"))
    return into_hidden, out_of_hidden
