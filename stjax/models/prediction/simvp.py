"""SimVP (Gao et al. 2022, arXiv 2206.05099), and as OpenSTL has it (arXiv 2306.11249).

A convolutional encoder and decoder of single frames, and between them a translator, which sees all
frames at once, folded into channels: IncepU, or a stack of any of the blocks of `translators`, of
which gSTA makes SimVPv2 (Tan et al. 2022, arXiv 2211.12509) and TAU the model of that name
(arXiv 2206.12126). All frames are predicted at once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.convolution import torch_conv
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.repeat import repeat
from stjax.models.prediction.translators import BLOCKS, GSTABlock, IncepU, check_depth
from stjax.ops.patches import unpatchify
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge

Version = Literal[1, 2]


class ConvSC(nn.Module):
    """A convolution that may halve or double the resolution, GroupNorm of two groups, activation.

    Attributes:
        features: channels that come out.
        kernel_size: side of the kernel.
        down, up: stride 2; or twice the resolution.
        version: 2 has SiLU, and doubles by four times the channels, shuffled into pixels; 1 has
            LeakyReLU, PyTorch's initialisation, and doubles by a transposed convolution.
    """

    features: int
    kernel_size: int = 3
    down: bool = False
    up: bool = False
    version: Version = 2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"kernel_init": nn.initializers.normal(0.02), "name": "conv", **dtypes}
        if self.version == 1:
            bias = torch_default_bias(self.kernel_size**2 * x.shape[-1])
            options |= {"kernel_init": torch_default, "bias_init": bias}
        window = (self.kernel_size, self.kernel_size)
        if self.up and self.version == 1:
            before = self.kernel_size // 2
            # One more zero at the end, so that n pixels become 2 n.
            padding = [(before, before + 1)] * 2
            x = nn.ConvTranspose(
                self.features, window, (2, 2), padding, transpose_kernel=True, **options
            )(x)
        else:
            stride = 2 if self.down else 1
            # On both sides alike, where "SAME" would pad one side more at stride 2.
            padding = (self.kernel_size - stride + 1) // 2
            features = self.features * (4 if self.up else 1)
            x = nn.Conv(features, window, stride, padding, **options)(x)
            if self.up:
                x = unpatchify(x, 2, order="channel row column")
        x = nn.GroupNorm(2, epsilon=1e-5, name="norm", **dtypes)(x)
        return nn.leaky_relu(x, 0.2) if self.version == 1 else nn.silu(x)


class MetaBlock(nn.Module):
    """A block that keeps its channels, and a linear map of each pixel where they must change."""

    block: Callable[..., nn.Module]
    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x, place, train):
        rate, layer = place
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self.block(name="block", **dtypes)(at_edge(x), rate, layer, train=train)
        if x.shape[-1] != self.features:
            x = torch_conv(x, self.features, "reduction", **dtypes)
        self.sow("intermediates", "out", x)
        return x, None


class Translator(nn.Module):
    """A plain stack of blocks: the first and the last as wide as all frames' channels together.

    Attributes:
        block: factory of a block, `block(dtype=, param_dtype=, name=)(x, rate, layer, train=)`.
        hid_T: channels between the first block and the last.
        N_T: number of blocks, two at least.
        drop_path: rate of stochastic depth at the last block. It runs there linearly from 0.01 at
            the first, also where it is 0, as published; None drops nothing.
        ends: factory of the first block, and of the last one if channels change after it; None:
            `block`.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    block: Callable[..., nn.Module] = GSTABlock
    hid_T: int = 512
    N_T: int = 8
    drop_path: float | None = 0.0
    ends: Callable[..., nn.Module] | None = None
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Array:
        check_depth(self.N_T)
        rate, rates = None, None
        if self.drop_path is not None:
            rate, *rates = np.linspace(0.01, self.drop_path, self.N_T)[:-1]
            rates = np.array(rates)
        ends, channels = self.ends or self.block, x.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, _ = MetaBlock(ends, self.hid_T, name="first", **dtypes)(x, (rate, 0), train)
        if self.N_T > 2:
            blocks = repeat(MetaBlock, self.N_T - 2, self.remat)
            places = rates, np.arange(1, self.N_T - 1)
            x, _ = blocks(self.block, self.hid_T, name="middle", **dtypes)(x, places, train)
        last = self.block if channels == self.hid_T else ends
        place = self.drop_path, self.N_T - 1
        x, _ = MetaBlock(last, channels, name="last", **dtypes)(x, place, train)
        return x


def translator(
    name: str,
    hid_T: int = 512,
    N_T: int = 8,
    drop_path: float | None = 0.0,
    mlp_ratio: float = 8.0,
    remat: bool = False,
    **options: Any,
) -> Callable[..., nn.Module]:
    """Factory of a translator for `SimVP`, from what a config holds.

    Args:
        name: "incepu" or a key of `translators.BLOCKS`.
        hid_T, N_T, drop_path, remat: see `Translator`; IncepU drops no paths.
        mlp_ratio: see `translators.Block`; IncepU and ConvMixer have no MLP.
        options: other fields of the block, or of `IncepU`.

    Raises:
        ValueError: a name that is none of them, or an option that this one has not.
    """
    modules = {"incepu": IncepU, **BLOCKS}
    if name not in modules:
        raise ValueError(f"translator: {name!r} is none of {', '.join(sorted(modules))}")
    module = modules[name]
    known = {field.name for field in dataclasses.fields(module)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"translator: {name!r} has no {', '.join(unknown)}")
    stack = {"hid_T": hid_T, "N_T": N_T, "remat": remat}
    if name == "incepu":
        return functools.partial(IncepU, **stack, **options)
    block = functools.partial(module, mlp_ratio=mlp_ratio, **options)
    ends = functools.partial(block, local=True) if name == "uniformer" else None
    return functools.partial(Translator, block, drop_path=drop_path, ends=ends, **stack)


class SimVP(nn.Module):
    """Predicts as many frames as it is given; their number is fixed by the weights.

    Attributes:
        hid_S: channels of the encoder and the decoder.
        N_S: layers of each; every second one halves or doubles the resolution.
        translator: factory of what stands between, `translator(dtype=, param_dtype=, name=)`, a
            module from (b, h, w, t * hid_S) to the same shape.
        spatio_kernel_enc, spatio_kernel_dec: sides of the kernels of encoder and decoder.
        version: 2 is OpenSTL's, where the decoder's last layer sees its input and the encoder's
            first layer's output added; 1 the first publication's, where it sees both. See `ConvSC`.
    """

    hid_S: int = 64
    N_S: int = 4
    translator: Callable[..., nn.Module] = Translator
    spatio_kernel_enc: int = 3
    spatio_kernel_dec: int = 3
    version: Version = 2
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
        latent = frames
        for i, down in enumerate(self._resampled):
            latent = self._layer(self.spatio_kernel_enc, down=down, name=f"encoder_{i}")(latent)
            if i == 0:
                skip = latent
        self.sow("intermediates", "skip", skip)
        self.sow("intermediates", "embedded", latent)
        return latent, skip

    def _decode(self, channels, latent, skip):
        for i, up in enumerate(reversed(self._resampled)):
            if i == len(self._resampled) - 1:
                both = latent, skip
                latent = jnp.concatenate(both, -1) if self.version == 1 else sum(both)
            latent = self._layer(self.spatio_kernel_dec, up=up, name=f"decoder_{i}")(latent)
        return torch_conv(
            latent, channels, "readout", dtype=self.dtype, param_dtype=self.param_dtype
        )

    def _layer(self, kernel_size, **options):
        return ConvSC(
            self.hid_S, kernel_size, version=self.version, dtype=self.dtype,
            param_dtype=self.param_dtype, **options,
        )

    @property
    def _resampled(self):
        """Whether the encoder's layers halve the resolution; OpenSTL leaves an odd last one out."""
        layers = self.N_S if self.version == 1 else self.N_S // 2 * 2
        return ([False, True] * self.N_S)[:layers]

    def _check(self, height, width):
        if self.N_S < 2:
            raise ValueError(f"N_S: {self.N_S}; encoder and decoder have two layers at least")
        if self.version not in (1, 2):
            raise ValueError(f"version: {self.version} is neither 1 nor 2")
        factor = 2 ** (self.N_S // 2)
        if height % factor or width % factor:
            raise ValueError(
                f"frames of {height} x {width} pixels do not divide by {factor} = 2^(N_S / 2)"
            )

