"""CT-D2GAN (Feng et al. 2021, arXiv 2107.13720): the next frame, to find what should not be there.

A convolutional encoder maps each past frame; a temporal self-attention of one weight a frame and
head averages the maps; a convolutional decoder makes the next frame. An image discriminator judges
it alone, a video discriminator behind the frames before it. The paper's text could not be had: what
its abstract and the caption of its figure do not say is a reconstruction (U-Net levels, cosine
similarities, sizes).
"""

from typing import Any, Literal

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.critics import ClipCritic, FrameCritic
from stjax.layers.partitioning import named
from stjax.layers.up_conv import UpConv
from stjax.ops.attention import attention
from stjax.ops.positions import sinusoidal
from stjax.ops.sharding import at_edge

ImageDiscriminator = FrameCritic
VideoDiscriminator = ClipCritic
OPTIONS = {"mixing": ("attention", "mean", "stack"), "skips": ("last", "weighted")}


class ConvBlock(nn.Module):
    """Twice a 3x3 convolution, batch norm (PyTorch's momentum 0.1), rectifier."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w features"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for k, (before, after) in enumerate((("embed", "mlp"), ("mlp", "embed"))):
            x = _conv(self.features, before, after, name=f"conv_{k}", **dtypes)(x)
            x = nn.BatchNorm(
                not train,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=named(nn.initializers.ones, after),
                bias_init=named(nn.initializers.zeros, after),
                name=f"norm_{k}",
                **dtypes,
            )(x)
            x = nn.relu(x)
        return x


class TemporalSelfAttention(nn.Module):
    """Averages maps over time with one weight a frame and head, and looks at the last one again.

    Head k: F_t = conv_k(x_t), g_t = [spatial mean of F_t, code of t], t = 1..T; the weights are the
    softmax over t of cos(g_T, g_t) / temperature. A 3x3 convolution maps the heads' averages, side
    by side, and x_T to the output. The weights are constant over space: they move nothing.

    Attributes:
        heads: they share the channels.
        code_features: of the sinusoidal code of t.
        temperature: of the softmax; small ones look for the frame most like the last.
        uniform: weights 1 / T (a baseline), and none of them learned.
    """

    heads: int = 4
    code_features: int = 16
    temperature: float = 1.0
    uniform: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b t heads"]]:
        """The output, and the weights.

        Raises:
            ValueError: channels that the heads do not divide.
        """
        batch, time, *_, channels = x.shape
        if channels % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {channels} channels")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        maps = _conv(channels, "embed", "heads", window=(1, 1), name="head", **dtypes)(x)
        maps = einops.rearrange(maps, "b t h w (k c) -> b t h w k c", k=self.heads)
        if self.uniform:
            weights = jnp.full((batch, time, self.heads), 1 / time, maps.dtype)
        else:
            weights = self._weights(maps.mean((2, 3)))
        self.sow("intermediates", "weights", weights)
        attended = jnp.einsum("btk,bthwkc->bhwkc", weights.astype(maps.dtype), maps)
        attended = einops.rearrange(attended, "b h w k c -> b h w (k c)")
        self.sow("intermediates", "attended", attended)
        both = jnp.concatenate([attended, x[:, -1].astype(attended.dtype)], -1)
        return _conv(channels, "heads", "embed", name="fuse", **dtypes)(both), weights

    def _weights(self, pooled: Float[Array, "b t k c"]) -> Float[Array, "b t k"]:
        batch, time, heads, _ = pooled.shape
        codes = sinusoidal(jnp.arange(1, time + 1), self.code_features).astype(pooled.dtype)
        codes = jnp.broadcast_to(codes[:, None], (batch, time, heads, self.code_features))
        vectors = jnp.concatenate([pooled, codes], -1)
        # A code's own norm keeps this from zero.
        vectors /= jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        frames = jnp.broadcast_to(
            jnp.eye(time, dtype=vectors.dtype)[:, None], (batch, time, heads, time)
        )
        # What attention makes of the frames' unit vectors are its weights.
        weights = attention(vectors[:, -1:], vectors, frames, scale=1 / self.temperature)
        return einops.rearrange(weights, "b 1 k t -> b t k")


class ConvolutionalTransformer(nn.Module):
    """The generator: past frames to the next one.

    Attributes:
        features: channels of the levels, from the full size down; each halves height and width.
        heads, code_features, temperature: of the temporal self-attention at the deepest level.
        mixing: "attention"; "mean": all frames alike; "stack": the frames side by side as channels
            of one, and nothing over time after that (the paper's kinds of baselines).
        skips: what the decoder sees of the encoder's levels: those of the "last" frame, or averages
            over time "weighted" by the attention, its heads' mean.
        remat: compute the levels' inner values again in the backward pass, and do not keep them.
    """

    features: tuple[int, ...] = (64, 128, 256, 512)
    heads: int = 4
    code_features: int = 16
    temperature: float = 1.0
    mixing: Literal["attention", "mean", "stack"] = "attention"
    skips: Literal["last", "weighted"] = "last"
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, past: Float[Array, "b t h w c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """The next frame, in [-1, 1] as the past.

        Raises:
            ValueError: an unknown option; a height or width that the levels do not halve.
        """
        self._check(past)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(ConvBlock, static_argnums=(2,)) if self.remat else ConvBlock
        channels = past.shape[-1]
        if self.mixing == "stack":
            past = einops.rearrange(past, "b t h w c -> b 1 h w (t c)")
        batch = len(past)
        x = einops.rearrange(past, "b t h w c -> (b t) h w c")
        levels = []
        for k, features in enumerate(self.features):
            x = nn.max_pool(x, (2, 2), (2, 2)) if k else x
            x = block(features, name=f"encoder_{k}", **dtypes)(at_edge(x), train)
            levels.append(einops.rearrange(x, "(b t) h w c -> b t h w c", b=batch))
        *levels, deepest = levels
        self.sow("intermediates", "features", deepest)
        x, weights = deepest[:, -1], None
        if self.mixing != "stack":
            x, weights = TemporalSelfAttention(
                self.heads, self.code_features, self.temperature, self.mixing == "mean",
                name="attention", **dtypes,
            )(deepest)
        self.sow("intermediates", "mixed", x)
        for k, level in enumerate(reversed(levels)):
            features = level.shape[-1]
            x = UpConv(features, name=f"up_{k}", **dtypes)(x)
            x = jnp.concatenate([x, self._skip(level, weights).astype(x.dtype)], -1)
            x = block(features, name=f"decoder_{k}", **dtypes)(at_edge(x), train)
        return jnp.tanh(_conv(channels, "embed", None, name="out", **dtypes)(x))

    def _skip(self, level, weights):
        if self.skips == "last" or weights is None:
            return level[:, -1]
        return jnp.einsum("bt,bthwc->bhwc", weights.mean(-1).astype(level.dtype), level)

    def _check(self, past):
        for field, known in OPTIONS.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"{field}: {value!r} is none of {', '.join(known)}")
        least = 2 ** (len(self.features) - 1)
        if past.ndim != 5 or past.shape[2] % least or past.shape[3] % least:
            raise ValueError(
                f"past: {past.shape}; {len(self.features)} levels take frames (b, t, h, w, c) of "
                f"multiples of {least} pixels"
            )


def _conv(features, before, after, window=(3, 3), **options):
    """A convolution that keeps the size, with the names of its kernel's channels."""
    return nn.Conv(
        features,
        window,
        kernel_init=named(nn.initializers.lecun_normal(), None, None, before, after),
        bias_init=named(nn.initializers.zeros, after),
        **options,
    )
