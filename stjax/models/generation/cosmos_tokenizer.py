"""The Cosmos discrete video tokenizer (Agarwal et al. 2025, arXiv 2501.03575, section 4).

Clips of 1 + k p frames are cut in wavelet bands, encoded by factorised causal convolutions, and
quantised level by level (FSQ); a mirrored decoder brings the codes back. The first frame is a
latent frame of its own, so an image is a clip of one frame.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stjax.layers.causal_conv import CausalConv, FactorizedConv
from stjax.layers.norm import frame_group_norm
from stjax.ops.attention import Causal, Full, attention
from stjax.ops.quantize import finite_scalar, finite_scalar_lookup
from stjax.ops.wavelets import haar, inverse_haar

Maps = Float[Array, "b t h w c"]
Codes = Int[Array, "b t h w"]


class _Typed(nn.Module):
    """A module with the types it computes in and keeps its parameters in."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def norm(self, x: Maps, name: str) -> Maps:
        """Over all of a frame, so that no frame knows of a later one."""
        options = {"epsilon": 1e-6, "use_fast_variance": False}
        return frame_group_norm(1, name=name, **options, **self.types)(x)


class ResnetBlock(_Typed):
    """x + conv(silu(norm(conv(silu(norm(x)))))), causal; a linear map of x where widths differ."""

    features: int = 0

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        y = x
        for k in (1, 2):
            y = nn.silu(self.norm(y, f"norm{k}"))
            y = FactorizedConv(self.features, **self.types, name=f"conv{k}")(y)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, **self.types, name="shortcut")(x)
        return x + y


class Attention(_Typed):
    """x + attention(norm(x)) with one head: over each frame, or over the time of each pixel."""

    over: str = "space"

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        b, t, h, w, c = x.shape
        y = self.norm(x, "norm")
        q, k, v = (nn.Dense(c, **self.types, name=name)(y) for name in ("q", "k", "v"))
        if self.over == "space":
            mask, cut = Full(), lambda z: z.reshape(b * t, h * w, 1, c)
            join = lambda z: z.reshape(b, t, h, w, c)
        else:
            mask, cut = Causal(), lambda z: jnp.moveaxis(z, 1, 3).reshape(b * h * w, t, 1, c)
            join = lambda z: jnp.moveaxis(z.reshape(b, h, w, t, c), 3, 1)
        y = join(attention(cut(q), cut(k), cut(v), mask))
        return x + nn.Dense(c, **self.types, name="out")(y)


class Downsample(_Typed):
    """Halves height and width, or the frames after the first, or all; convolution plus mean."""

    space: bool = False
    time: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        c = x.shape[-1]
        if self.space:
            mean = nn.avg_pool(x, (1, 2, 2), (1, 2, 2))
            x = CausalConv(c, (1, 3, 3), (1, 2, 2), **self.types, name="space")(x) + mean
        if self.time:
            pairs = jnp.concatenate([x[:, :1], x], 1)
            mean = nn.avg_pool(pairs, (2, 1, 1), (2, 1, 1))
            x = CausalConv(c, (3, 1, 1), (2, 1, 1), **self.types, name="time")(x) + mean
        return nn.Dense(c, **self.types, name="out")(x)


class Upsample(_Typed):
    """Doubles the frames after the first, or height and width, or all."""

    space: bool = False
    time: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        c = x.shape[-1]
        if self.time:
            x = jnp.repeat(x, 2, 1)[:, 1:]
            x = x + CausalConv(c, (3, 1, 1), **self.types, name="time")(x)
        if self.space:
            x = jnp.repeat(jnp.repeat(x, 2, 2), 2, 3)
            x = x + CausalConv(c, (1, 3, 3), **self.types, name="space")(x)
        return nn.Dense(c, **self.types, name="out")(x)


class Stage(NamedTuple):
    """One level of the encoder or decoder, and what halves, or doubles, the maps after it."""

    features: int
    attends: bool
    space: bool
    time: bool


class _Coder(_Typed):
    """What encoder and decoder share: blocks, and the middle.

    Attributes:
        stages: in their order.
        blocks: residual blocks a stage.
        out: channels of the output.
    """

    stages: tuple[Stage, ...] = ()
    blocks: int = 0
    out: int = 0

    def block(self, x: Maps, features: int, attends: bool, name: str) -> Maps:
        x = ResnetBlock(features=features, **self.types, name=f"{name}_block")(x)
        if not attends:
            return x
        x = Attention(over="space", **self.types, name=f"{name}_space")(x)
        return Attention(over="time", **self.types, name=f"{name}_time")(x)

    def middle(self, x: Maps) -> Maps:
        x = self.block(x, x.shape[-1], True, "middle_0")
        return self.block(x, x.shape[-1], False, "middle_1")

    def levels(self, x: Maps, resample: type[nn.Module]) -> Maps:
        for i, stage in enumerate(self.stages):
            for j in range(self.blocks):
                x = self.block(x, stage.features, stage.attends, f"stage_{i}_{j}")
            if stage.space or stage.time:
                options = {"space": stage.space, "time": stage.time, "name": f"stage_{i}_resample"}
                x = resample(**options, **self.types)(x)
        return x

    def last(self, x: Maps) -> Maps:
        x = nn.silu(self.norm(x, "norm"))
        return FactorizedConv(self.out, **self.types, name="out_conv")(x)


class Encoder(_Coder):
    """Stages, each with its halving, then the middle.

    Attributes:
        first: channels before the stages.
    """

    first: int = 0

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        x = FactorizedConv(self.first, **self.types, name="in_conv")(x)
        return self.last(self.middle(self.levels(x, Downsample)))


class Decoder(_Coder):
    """The middle, then stages, each with its doubling."""

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        x = FactorizedConv(self.stages[0].features, **self.types, name="in_conv")(x)
        return self.last(self.levels(self.middle(x), Upsample))


class CosmosTokenizer(_Typed):
    """Video in [-1, 1] to codes, and back.

    Attributes:
        channels: of the clip.
        features: of the first convolution.
        multipliers: of the features, level by level.
        blocks: residual blocks a level in the encoder; the decoder has one more.
        attention_levels: which levels have attention after every block; the middle always has.
        patch: side of the wavelet's cells, a power of two.
        time, space: how many frames, and how many pixels a side, become one code: powers of two,
            no less than the patch.
        latents: channels between encoder and quantiser.
        scalars: levels of each quantised channel.
    """

    channels: int = 3
    features: int = 128
    multipliers: tuple[int, ...] = (2, 4, 4)
    blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    patch: int = 4
    time: int = 4
    space: int = 8
    latents: int = 16
    scalars: tuple[int, ...] = (8, 8, 8, 5, 5, 5)

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return math.prod(self.scalars)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """How many codes a clip has along time, height and width.

        Raises:
            ValueError: not 1 + k `time` frames, or sides that `space` does not divide.
        """
        if (frames - 1) % self.time or height % self.space or width % self.space:
            raise ValueError(
                f"video: {frames} frames of {height} x {width} instead of 1 + k {self.time} "
                f"frames with sides that {self.space} divides"
            )
        return 1 + (frames - 1) // self.time, height // self.space, width // self.space

    def setup(self) -> None:
        down, up = self.stages
        width = len(self.scalars)
        values = self.channels * self.patch**3
        self.encoder = Encoder(
            stages=down, blocks=self.blocks, out=self.latents, first=self.features, **self.types
        )
        self.to_scalars = nn.Dense(width, **self.types)
        self.from_scalars = nn.Dense(self.latents, **self.types)
        self.decoder = Decoder(stages=up, blocks=self.blocks + 1, out=values, **self.types)

    def __call__(self, video: Maps, *, train: bool = False) -> tuple[Maps, Codes]:
        """The reconstruction, its gradient straight through the quantiser, and the codes."""
        del train
        embeddings, codes = self._quantised(video)
        return self._reconstruct(embeddings), codes

    def encode(self, video: Maps) -> Codes:
        return self._quantised(video)[1]

    def decode(self, codes: Codes) -> Maps:
        return self._reconstruct(finite_scalar_lookup(codes, self.scalars, self.param_dtype))

    def _quantised(self, video):
        self.grid(*video.shape[1:4])
        first = jnp.repeat(video[:, :1], self.patch - 1, 1)
        patches = haar(jnp.concatenate([first, video], 1), self._cuts)
        self.sow("intermediates", "patched", patches)
        latents = self.encoder(patches)
        self.sow("intermediates", "encoded", latents)
        scalars = self.to_scalars(latents)
        self.sow("intermediates", "scalars", scalars)
        return finite_scalar(scalars, self.scalars)

    def _reconstruct(self, embeddings):
        patches = self.decoder(self.from_scalars(embeddings))
        return inverse_haar(patches, self._cuts)[:, self.patch - 1 :]

    @property
    def _cuts(self) -> int:
        return int(math.log2(self.patch))

    @property
    def stages(self) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
        """Of the encoder: the first levels halve. Of the decoder: as in the published code.

        There a level doubles the frames if, counted from the coarsest as 0, it is one of the first
        after that, and the pixels then too; if more pixels than frames are to be doubled, the
        coarsest levels double pixels.
        """
        space, time = (int(math.log2(n // self.patch)) for n in (self.space, self.time))
        last, down, up = len(self.multipliers) - 1, [], []
        for level, multiplier in enumerate(self.multipliers):
            shape = multiplier * self.features, level in self.attention_levels
            down.append(Stage(*shape, level < min(space, last), level < min(time, last)))
            above = last - level
            frames = level > 0 and 0 < above <= time
            pixels = level > 0 and (frames or (above < space and space > time))
            up.append(Stage(*shape, pixels, frames))
        return tuple(down), tuple(reversed(up))
