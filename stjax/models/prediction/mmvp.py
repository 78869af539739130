"""MMVP (Zhong et al. 2023, arXiv 2308.16154): video prediction by motion matrices.

What frames look like and how they move are kept apart. A motion matrix says how alike each place
of a frame is to each place of the next one. A network predicts the matrices of the future from
those of the past, and the future's features, and frames, are the past's, carried along by them.
"""

import functools
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.convolution import Conv
from stjax.layers.initializers import torch_default
from stjax.layers.norm import torch_batch_norm
from stjax.layers.repeat import repeat
from stjax.layers.up_conv import UpConv
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.scales import resize
from stjax.ops.sharding import at_edge

Maps = Float[Array, "n h w c"]


class DenseBlock(nn.Module):
    """x + h / 5: four 3x3 convolutions, each of which sees what all those before it made of x."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, _: None, train: bool) -> tuple[Maps, None]:
        del train
        conv = functools.partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype)
        channels, seen = x.shape[-1], x
        for k in range(3):
            grown = nn.leaky_relu(conv(channels // 2, name=f"conv_{k}")(seen), 0.2)
            seen = jnp.concatenate([seen, grown], -1)
        return x + 0.2 * conv(channels, name="conv_3")(seen), None


class RRDB(nn.Module):
    """x + h / 5: three dense blocks one after the other, a residual of residuals."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, _: None, train: bool) -> tuple[Maps, None]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h, _ = repeat(DenseBlock, 3)(**types, name="dense")(at_edge(x), None, train)
        return x + 0.2 * h, None


class Halving(nn.Module):
    """A residual block that halves the resolution."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "n h/2 w/2 features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = Conv(self.features, strides=(2, 2), padding=(1, 1), **types, name="conv_0")(x)
        h = nn.relu(Conv(self.features, **types, name="conv_1")(nn.relu(h)))
        shortcut = nn.Dense(self.features, kernel_init=torch_default, **types, name="shortcut")
        return nn.leaky_relu(h + shortcut(x[:, ::2, ::2]))


class MatrixPredictor(nn.Module):
    """Future motion matrices from past ones: a small U-net of each source place's map of targets.

    Attributes:
        features: hidden channels.
        horizon: matrices that are predicted.
    """

    features: int
    horizon: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Float[Array, "n t h w 1"], *, train: bool
    ) -> Float[Array, "n horizon h w 1"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        clips = lambda x: x.reshape(len(maps), -1, *x.shape[1:])
        frames = lambda x: x.reshape(-1, *x.shape[2:])

        def layer(x, name, features=self.features, window=(3, 3), strides=None):
            padding = tuple(side // 2 for side in window)
            x = Conv(features, window, strides, padding, **types, name=name)(x)
            return nn.leaky_relu(torch_batch_norm(train, **types, name=f"{name}_norm")(x))

        x = Conv(self.features, use_bias=False, **types, name="in")(frames(maps))
        x = layer(layer(x, "full_0"), "full_1")
        half = clips(layer(x, "down_0", strides=(2, 2)))
        half = layer(half, "time_0", window=(3, 3, 3))
        # One linear map of all steps and channels of a pixel.
        translate = nn.DenseGeneral(
            (self.horizon, self.features), (1, -1), kernel_init=torch_default, **types,
            name="translate",
        )
        half = nn.leaky_relu(translate(half))
        half = torch_batch_norm(train, axis=(-2, -1), **types, name="translate_norm")(half)
        half = frames(jnp.moveaxis(half, -2, 1))
        quarter = clips(layer(half, "down_1", 2 * self.features, strides=(2, 2)))
        quarter = frames(layer(quarter, "time_1", 2 * self.features, (3, 3, 3)))
        half = jnp.concatenate([resize(quarter, half.shape[1:3], "nearest"), half], -1)
        half = layer(half, "up_0")
        x = layer(resize(half, maps.shape[2:4], "nearest"), "up_1")
        return clips(Conv(1, use_bias=False, **types, name="out")(x))


class MMVP(nn.Module):
    """Predicts `horizon` frames; their number and that of the given ones are fixed by the weights.

    (The published code shows the encoder the future too in training, whose features count for batch
    statistics alone, and mixes the axes of what it returns where frames have several channels.)

    The past's features, of half the frame's resolution at scales 1/2, 1/4 and 1/8, and its pixels
    are carried by the matrices of scale 1/4, the coarsest features by those of scale 1/8.

    Attributes:
        horizon: frames that are predicted.
        hid_S: channels of the finest features; each coarser scale has twice as many.
        hid_T: of the matrices' predictor.
        rrdb_encoder_num, rrdb_decoder_num, rrdb_enhance_num: residual blocks of the encoder, of the
            decoder, and of what joins the decoded frames with the pixels carried along.
        remat: compute the residual blocks' inner values again in the backward pass, and do not keep
            them.
    """

    horizon: int = 10
    hid_S: int = 32
    hid_T: int = 192
    rrdb_encoder_num: int = 2
    rrdb_decoder_num: int = 2
    rrdb_enhance_num: int = 2
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "clip"

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t height width c"], *, train: bool = False
    ) -> Float[Array, "b horizon height width c"]:
        """
        Raises:
            ValueError: one frame, or a height or width that 16 does not divide.
        """
        if video.ndim != 5 or video.shape[1] < 2 or video.shape[2] % 16 or video.shape[3] % 16:
            raise ValueError(
                f"video: {video.shape} instead of (b, t, h, w, c), two frames at least of a height "
                "and width that 16 divides"
            )
        batch, channels = len(video), video.shape[-1]
        clips = lambda x: x.reshape(batch, -1, *x.shape[1:])
        frames = lambda x: x.reshape(-1, *x.shape[2:])

        middle, high, low = self._encode(patchify(frames(video), 2))
        self.sow("intermediates", "features_low", low)
        filtered = self._filter(high, self.hid_S, "filter_high", train)
        self.sow("intermediates", "filtered_high", filtered)
        past_high = motion_matrices(clips(filtered))
        filtered = self._filter(low, 2 * self.hid_S, "filter_low", train)
        past_low = motion_matrices(clips(filtered))

        future = self._predict(past_high, high.shape[1:3], train)
        self.sow("intermediates", "predicted_matrix", future)
        coarser = _coarser(future, high.shape[1:3], low.shape[1:3])
        high_matrices = _softmax(jnp.concatenate([past_high, future], 1))
        low_matrices = _softmax(jnp.concatenate([past_low, coarser], 1))
        self.sow("intermediates", "high_matrices", high_matrices)
        self.sow("intermediates", "low_matrices", low_matrices)

        past = [patchify(middle, 2), high, patchify(frames(video), 8)]
        widths = np.cumsum([x.shape[-1] for x in past])[:-1]
        joined = frames(compose(clips(jnp.concatenate(past, -1)), high_matrices))
        middle, high, pixels = jnp.split(joined, widths, -1)
        low = frames(compose(clips(low), low_matrices))
        decoded = self._decode(unpatchify(middle, 2), high, low, channels)
        return clips(self._enhance(decoded, unpatchify(pixels, 8)))

    @property
    def _types(self):
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _residual(self, x, count, name):
        x, _ = repeat(RRDB, count, self.remat)(**self._types, name=name)(x, None, False)
        return x

    def _encode(self, frames):
        """Features of the three scales that are used; the finest ones are not."""
        x = Conv(self.hid_S, **self._types, name="encoder_in")(frames)
        x = self._residual(x, self.rrdb_encoder_num, "encoder")
        scales = []
        for k in range(3):
            x = Halving(2 ** (k + 1) * self.hid_S, **self._types, name=f"halving_{k}")(x)
            scales.append(x)
        return scales

    def _filter(self, x, features, name, train):
        """Features by which places are compared."""
        for k in range(3):
            x = Conv(features, **self._types, name=f"{name}_{k}")(x)
            norm = torch_batch_norm(train, **self._types, name=f"{name}_norm_{k}")
            x = nn.leaky_relu(norm(x))
        return x

    def _predict(self, past, grid, train):
        height, width = grid
        maps = einops.rearrange(past, "b t n (h w) -> (b n) t h w 1", h=height)
        predictor = MatrixPredictor(self.hid_T, self.horizon, **self._types, name="predictor")
        future = predictor(maps, train=train).astype(past.dtype)
        return einops.rearrange(future, "(b n) t h w 1 -> b t n (h w)", n=height * width)

    def _decode(self, middle, high, low, channels):
        x = low
        for k, skip in enumerate((high, middle, None)):
            features = 2 ** (2 - k) * self.hid_S
            x = UpConv(features, **self._types, name=f"up_{k}")(x)
            x = x if skip is None else jnp.concatenate([skip.astype(x.dtype), x], -1)
            x = nn.relu(Conv(features, use_bias=False, **self._types, name=f"decoder_{k}")(x))
        x = self._residual(x, self.rrdb_decoder_num, "decoder")
        x = nn.Dense(4 * channels, kernel_init=torch_default, **self._types, name="decoder_out")(x)
        return unpatchify(x, 2, order="channel row column")

    def _enhance(self, decoded, carried):
        """The frames, from those decoded and those whose pixels were carried along."""
        x = jnp.concatenate([decoded, carried.astype(decoded.dtype)], -1)
        x = Conv(self.hid_S, **self._types, name="enhancer_in")(x)
        x = self._residual(x, self.rrdb_enhance_num, "enhancer")
        out = nn.Dense(
            decoded.shape[-1], kernel_init=torch_default, **self._types, name="enhancer_out"
        )
        return out(x)


def motion_matrices(features: Float[Array, "b t h w c"]) -> Float[Array, "b t-1 h*w h*w"]:
    """The cosine of the angle between what is at each place and at each place a frame later."""
    features = features.reshape(*features.shape[:2], -1, features.shape[-1])
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    square = jnp.square(features).sum(-1, keepdims=True)
    # The root has no gradient at zero.
    length = jnp.sqrt(jnp.where(square > 0, square, 1))
    features = features / (length + 1e-6)
    return jnp.einsum("btnc,btmc->btnm", features[:, :-1], features[:, 1:])


def compose(
    features: Float[Array, "b t h w c"], matrices: Float[Array, "b t-1+s h*w h*w"]
) -> Float[Array, "b s h w c"]:
    """Features of s future frames: all past ones, averaged with the weights of their paths there.

    The weight of the path from a place of frame k to one of future frame j is the entry of
    M_k M_{k+1} ... M_{t-2} F_j, of the t - 1 past matrices M and the future ones F, each of which
    goes from the last given frame right to its own. Carrying sums of features, and of ones for the
    weights' sum, from frame to frame gives the same with no product of two matrices.
    """
    batch, steps, height, width, _ = features.shape
    flat = features.reshape(batch, steps, height * width, -1).astype(matrices.dtype)
    flat = jnp.pad(flat, [(0, 0)] * 3 + [(0, 1)], constant_values=1)
    carried = flat[:, 0]
    for k in range(steps - 1):
        carried = jnp.einsum("bnm,bnc->bmc", matrices[:, k], carried) + flat[:, k + 1]
    carried = jnp.einsum("bsnm,bnc->bsmc", matrices[:, steps - 1 :], carried)
    average = carried[..., :-1] / (carried[..., -1:] + 1e-6)
    return average.reshape(batch, -1, height, width, average.shape[-1]).astype(features.dtype)


def _softmax(matrices):
    """Over each whole matrix."""
    return nn.softmax(matrices.reshape(*matrices.shape[:2], -1)).reshape(matrices.shape)


def _coarser(matrices, grid, smaller):
    """Matrices between the places of a coarser grid: targets interpolated, and then sources."""
    batch, steps = matrices.shape[:2]
    targets = resize(matrices.reshape(-1, *grid, 1), smaller, "linear")
    sources = targets.reshape(batch * steps, *grid, -1)
    return resize(sources, smaller, "cubic").reshape(
        batch, steps, smaller[0] * smaller[1], smaller[0] * smaller[1]
    )
