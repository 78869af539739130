"""WaST (Nie et al. 2024, AAAI): space and time taken apart by wavelets.

A clip is halved in height and width by a Haar transform that loses nothing: what is smooth in space
goes on, and what is not goes round the bottleneck. Between the transforms blocks see all frames at
once, folded into channels, through large kernels for low frequencies and small ones for high ones.
"""

import functools
from typing import Any, ClassVar, Literal

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.convolution import Conv
from stjax.layers.depthwise import DepthwiseConv
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.norm import torch_batch_norm
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.squeeze_excite import SqueezeExcite
from stjax.layers.stochastic_depth import DropPath
from stjax.ops.activations import gelu
from stjax.ops.conv import conv
from stjax.ops.sharding import at_edge
from stjax.ops.wavelets import haar, inverse_haar

Maps = Float[Array, "b h w c"]
Clip = Float[Array, "b t h w c"]


class FrequencyAttention(nn.Module):
    """x times a weight for each row and one for each column, of every channel.

    The weights come of the means over the other axis. (Coordinate attention, Hou et al. 2021, arXiv
    2103.02907.)

    Attributes:
        reduction: hidden channels are c // reduction, but no fewer than 8.
    """

    reduction: int = 4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, *, train: bool) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        height, channels = x.shape[1], x.shape[-1]
        means = jnp.concatenate([x.mean(2), x.mean(1)], 1)
        hidden = _pointwise(means, max(8, channels // self.reduction), "in", **types)
        hidden = nn.hard_swish(torch_batch_norm(train, **types, name="norm")(hidden))
        rows = nn.sigmoid(_pointwise(hidden[:, :height], channels, "rows", **types))
        columns = nn.sigmoid(_pointwise(hidden[:, height:], channels, "columns", **types))
        return x * columns[:, None] * rows[:, :, None]


class InvertedResidual(nn.Module):
    """Hidden channels, a 7x7 depthwise convolution of them, squeeze-and-excitation, and back.

    (MobileNetV3's block, Howard et al. 2019, arXiv 1905.02244, without the residual.)

    Attributes:
        ratio: of hidden channels to those of the input.
    """

    ratio: float = 4.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, *, train: bool) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        norm = functools.partial(torch_batch_norm, train, **types)
        dense = functools.partial(nn.Dense, use_bias=False, **types)
        into, back = named(torch_default, "embed", "mlp"), named(torch_default, "mlp", "embed")
        h = dense(int(self.ratio * channels), kernel_init=into, name="in")(x)
        h = nn.relu(norm(name="in_norm")(h))
        h = DepthwiseConv(7, use_bias=False, **types, name="mix")(h)
        h = nn.relu(norm(name="mix_norm")(h))
        h = SqueezeExcite(4, 1, **types, name="excite")(h)
        return norm(name="out_norm")(dense(channels, kernel_init=back, name="out")(h))


class TFAwareBlock(nn.Module):
    """A time-frequency aware block: large and small kernels, then an inverted residual.

    Attributes:
        large: length of the large kernels, one upright and one lying; both are 5 wide.
        ratio: of the inverted residual's hidden channels.
        shared_scale: whether both branches have one layer scale (published code).
    """

    large: int
    ratio: float = 4.0
    shared_scale: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Maps, rate: Float[Array, ""] | None, train: bool
    ) -> tuple[Maps, None]:
        """`rate` is the block's rate of stochastic depth."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(torch_batch_norm, train, **types)

        def spread(x, window, name):
            init = torch_default_bias(window[0] * window[1])
            options = {"kernel_init": init, "bias_init": init, "channels": "embed"}
            x = DepthwiseConv(window, **options, **types, name=name)(x)
            return norm(name=f"{name}_norm")(x)

        scales = [
            self.param(name, nn.initializers.constant(1e-2), x.shape[-1:], self.param_dtype)
            for name in ("scale", "mixer_scale")[: 1 if self.shared_scale else 2]
        ]
        normed = norm(name="norm")(at_edge(x))
        low = spread(normed, (self.large, 5), "upright") + spread(normed, (5, self.large), "lying")
        low = FrequencyAttention(**types, name="low")(low, train=train)
        self.sow("intermediates", "attended", low)
        high = spread(normed, (5, 5), "small")
        high = FrequencyAttention(**types, name="high")(high, train=train)
        x = x + DropPath()(scales[0].astype(x.dtype) * (low + high), rate, train=train)
        mixer = InvertedResidual(self.ratio, **types, name="mixer")
        mixed = mixer(norm(name="mixer_norm")(x), train=train)
        x = x + DropPath()(scales[-1].astype(x.dtype) * mixed, rate, train=train)
        self.sow("intermediates", "out", x)
        return x, None


class WaST(nn.Module):
    """Predicts as many frames as it is given; their number is fixed by the weights.

    The last one of an odd number is read twice, and what is predicted beyond as many is left out.

    Attributes:
        encoder_dim: channels of a frame; twice as many at the bottleneck.
        block_list: blocks before the transform, at the bottleneck, and after the inverse.
        mlp_ratio: hidden channels of the blocks' inverted residuals.
        drop_path: rate of stochastic depth at the last block; it runs there linearly from 0.
        kept: the axis of whose halves by the transform, sums and differences, neither is a high
            frequency, and which lie one after the other in time. "width" is the published code,
            which names bands as if it transformed height, width and time in this order, but
            transforms time, height and width.
        shared_scale: whether both branches of a block have one layer scale (published code, which
            has a second one and does not use it).
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    encoder_dim: int = 20
    block_list: tuple[int, int, int] = (2, 8, 2)
    mlp_ratio: float = 4.0
    drop_path: float = 0.25
    kept: Literal["time", "width"] = "time"
    shared_scale: bool = False
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "clip"

    @nn.compact
    def __call__(self, video: Clip, *, train: bool = False) -> Clip:
        """
        Raises:
            ValueError: an odd height or width, an unknown `kept`.
        """
        self._check(video)
        given, channels = video.shape[1], video.shape[-1]
        if given % 2:
            video = jnp.concatenate([video, video[:, -1:]], 1)
        time = video.shape[1]
        fold = lambda x: einops.rearrange(x, "b t h w c -> b h w (c t)")
        unfold = lambda x: einops.rearrange(x, "b h w (c t) -> b t h w c", t=time)

        x = self._layer(video, self.encoder_dim, "in", train)
        self.sow("intermediates", "encoded", x)
        before = self._blocks(fold(x), 0, train)

        x = self._layer(unfold(before), self.encoder_dim, "split", train)
        low, high = self._split(x)
        x = self._layer(_in_time(low), 2 * self.encoder_dim, "low", train)
        bands = _in_time(jnp.concatenate(self._split(video), -3))
        x = x + self._conv(2 * self.encoder_dim, "embedding")(bands)
        self.sow("intermediates", "embedded", x)
        x = unfold(self._blocks(fold(x), 1, train))

        x = self._layer(x, self.encoder_dim, "joined_low", train)
        low = einops.rearrange(x, "b (kept t) h w c -> b t h w 1 kept c", kept=2)
        x = self._join(low, self._high(high, train))
        self.sow("intermediates", "reconstructed", x)
        x = jnp.concatenate([fold(x), before], -1)
        x = Conv(x.shape[-1] // 2, **self._types, name="concatenated")(x)
        x = unfold(self._blocks(x, 2, train))
        x = gelu(torch_batch_norm(train, **self._types, name="out_norm")(x))
        return self._conv(channels, "out")(x)[:, :given]

    @property
    def _types(self):
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _conv(self, features, name):
        return Conv(features, (3, 3, 3), **self._types, name=name)

    def _layer(self, x, features, name, train):
        x = self._conv(features, name)(x)
        return gelu(torch_batch_norm(train, **self._types, name=f"{name}_norm")(x))

    def _blocks(self, x, stage, train):
        """The blocks of a stage; their rates are a stretch of those of all."""
        count, first = self.block_list[stage], sum(self.block_list[:stage])
        rates = None
        if self.drop_path:
            rates = np.linspace(0, self.drop_path, sum(self.block_list))[first : first + count]
        blocks = repeat(TFAwareBlock, count, self.remat)(
            large=21 if stage == 1 else 51,
            ratio=self.mlp_ratio,
            shared_scale=self.shared_scale,
            **self._types,
            name=f"blocks_{stage}",
        )
        return blocks(x, rates, train)[0]

    def _split(self, x):
        """The bands of a clip, low frequencies and high ones; before channels: which, and kept."""
        bands = haar(x, 1, orthonormal=True)
        pattern = f"b t h w ({self._bands} c) -> b t h w ({self._others}) {self.kept} c"
        bands = einops.rearrange(bands, pattern, time=2, height=2, width=2)
        return bands[..., :1, :, :], bands[..., 1:, :, :]

    def _join(self, low, high):
        """The clip whose bands these are."""
        pattern = f"b t h w ({self._others}) {self.kept} c -> b t h w ({self._bands} c)"
        bands = jnp.concatenate([low, high.astype(low.dtype)], -3)
        bands = einops.rearrange(bands, pattern, time=2, height=2, width=2)
        return inverse_haar(bands, 1, orthonormal=True)

    _bands = "time height width"

    @property
    def _others(self):
        return self._bands.replace(self.kept, "")

    def _high(self, bands, train):
        """Each band of high frequencies convolved by itself."""
        width = bands.shape[-1]
        shape = (3, 3, 3, width, 6 * width)
        kernel = self.param("high_kernel", torch_default, shape, self.param_dtype)
        bias = self.param("high_bias", torch_default_bias(27 * width), shape[-1:], self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(bands, kernel, bias, dtype=self.dtype)
        x = [
            conv(x[..., band // 2, band % 2, :], part)
            for band, part in enumerate(jnp.split(kernel, 6, -1))
        ]
        x = jnp.concatenate(x, -1) + bias
        x = gelu(torch_batch_norm(train, **self._types, name="high_norm")(x))
        return x.reshape(bands.shape)

    def _check(self, video):
        if self.kept not in ("time", "width"):
            raise ValueError(f"kept: {self.kept!r} is neither 'time' nor 'width'")
        if video.ndim != 5 or video.shape[2] % 2 or video.shape[3] % 2:
            raise ValueError(
                f"video: {video.shape} instead of (b, t, h, w, c) with even height and width"
            )


def _in_time(bands):
    """Sums and then differences along the kept axis, in time; all other bands in channels."""
    return einops.rearrange(bands, "b t h w band kept c -> b (kept t) h w (band c)")


def _pointwise(x, features, name, **types):
    return nn.Dense(
        features,
        kernel_init=torch_default,
        bias_init=torch_default_bias(x.shape[-1]),
        **types,
        name=name,
    )(x)
