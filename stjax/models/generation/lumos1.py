"""Lumos-1 (Yuan et al. 2025, arXiv 2507.08801): a language model that writes video frame by frame.

Text and the codes of a video tokenizer stand in one sequence, which a Llama-shaped decoder reads.
It is causal but for the frames, each of which sees all of itself, so that a frame's codes can be
drawn a few at a time (masked discrete diffusion) before the next frame begins.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.llama_block import LlamaBlock
from stjax.layers.norm import QKNorm
from stjax.layers.partitioning import named
from stjax.layers.sequence import Stack
from stjax.ops.attention import Cache, Causal, Mask, SameFrame, attention
from stjax.ops.rotary import Spectrum, channel_spectrum, rotary_angles

# Which axis (time, height, width) each channel of a meta group follows, 2 : 3 : 3.
AXES = (0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token numbers: text and special tokens, then the visual codes. Defaults as published.

    Attributes:
        text: how many tokens are not codes.
        codes: how many visual codes there are.
        numbers: token of the number 0; sizes, durations and rates are written so.
        unit: pixels to one of a size.
    """

    text: int = 65_536
    codes: int = 64_000
    frame_start: int = 8197
    frame_end: int = 8196
    line_end: int = 8803
    mask: int = 9003
    video_start: int = 9004
    numbers: int = 8804
    unit: int = 32

    @property
    def size(self) -> int:
        return self.text + self.codes


@dataclasses.dataclass(frozen=True)
class Layout:
    """What stands where in a sequence; the same for all samples of a batch.

    A frame is a start, its height and width, its rows of codes, each with a line's end, and an end.

    Attributes:
        prefix: tokens before the first frame.
        frames, height, width: the frames, and their codes.
    """

    prefix: int
    frames: int
    height: int
    width: int

    @property
    def content(self) -> int:
        """Tokens of a frame's rows, line ends included."""
        return self.height * (self.width + 1)

    @property
    def frame(self) -> int:
        """Tokens of a frame."""
        return self.content + 4

    @property
    def length(self) -> int:
        return self.prefix + self.frames * self.frame

    @property
    def codes(self) -> Int[np.ndarray, "codes"]:
        """Where among a frame's rows its codes are."""
        places = np.arange(self.content).reshape(self.height, self.width + 1)
        return places[:, : self.width].reshape(-1)

    @property
    def mask(self) -> Mask:
        """Token dependency: causal, and within a frame all see all."""
        return Causal() | SameFrame(self.prefix, self.frame, self.frames)

    def positions(
        self, places: Int[Array, "n"], strides: Sequence[int]
    ) -> tuple[Int[Array, "n 3"], Bool[Array, "n"]]:
        """Positions in time, height and width; and whether the token is one of a frame's rows.

        Rows count in pixels from the place of the first frame's first code, whatever frame they are
        of; all other tokens have their own place, three times.

        Args:
            places: of tokens in the sequence.
            strides: frames, and pixels down and across, from one code to the next.
        """
        frame, token = jnp.divmod(places - self.prefix, self.frame)
        inside = (places >= self.prefix) & (frame < self.frames)
        inside &= (token >= 3) & (token < 3 + self.content)
        row, column = jnp.divmod(token - 3, self.width + 1)
        cell = jnp.stack([frame, row, column], -1) * jnp.asarray(strides)
        start = self.prefix + 3
        return jnp.where(inside[:, None], start + cell, places[:, None]), inside


def mm_spectrum(head_dim: int, base: float) -> Spectrum:
    """MM-RoPE: every axis has its share of the whole spectrum, in groups of sixteen channels.

    Of heads with a multiple of 32 channels it is a rotary code. With others the two halves of the
    channels follow different axes, and products no longer depend on differences alone.
    Frequencies are rounded to float32, as published.

    Raises:
        ValueError: heads whose channels are not whole groups.
    """
    if head_dim % len(AXES):
        raise ValueError(f"head_dim: {head_dim}, not a multiple of {len(AXES)}")
    spectrum = channel_spectrum(np.tile(AXES, head_dim // len(AXES)), base)
    rounded = spectrum.frequencies.astype(np.float32).astype(np.float64)
    return spectrum._replace(frequencies=rounded)


class Lumos1(nn.Module):
    """A decoder over text and visual codes.

    Attributes:
        vocabulary: numbers of the tokens.
        dim, depth, heads, kv_heads, hidden: of the Llama blocks.
        base: of the rotary code.
        strides: frames, and pixels down and across, from one code to the next (the tokenizer's);
            ones leave positions unscaled.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    vocabulary: Vocabulary = Vocabulary()
    dim: int = 2048
    depth: int = 16
    heads: int = 32
    kv_heads: int = 8
    hidden: int = 8192
    base: float = 10_000
    strides: tuple[int, int, int] = (4, 8, 8)
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b n"],
        layout: Layout,
        state: Cache | None = None,
        *,
        begin: Int[Array, "b"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b n dim"], Float[Array, "dim codes"], Cache]:
        """Reads tokens: the whole sequence, or those after what `state` remembers.

        Args:
            layout: of the sequence.
            begin: where each sample begins; nothing sees the tokens before it (what
                fills up short texts, and texts left out for guidance; with heads of a multiple of
                32 channels the rest is as it would be without them).

        Returns:
            Features of the tokens, the linear map from them to the logits of the visual codes, and
            what the decoder remembers.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = nn.initializers.normal(0.02)
        x = nn.Embed(
            self.vocabulary.size,
            self.dim,
            embedding_init=named(normal, "vocab", "embed"),
            **types,
            name="embedding",
        )(tokens)
        block = functools.partial(
            LlamaBlock,
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden,
            capacity=layout.length,
            mask=layout.mask,
            rotary=self._rotary(layout),
            qk_norm=QKNorm(center=True, epsilon=1e-5, parent=None, **types),
            **types,
        )
        stack = Stack(block, self.depth, remat=self.remat, name="stack")
        attend = attention if begin is None else functools.partial(_attend_from, begin)
        x, state = stack(x, state, attend=attend, train=train)
        x = nn.RMSNorm(1e-5, **types, name="norm")(x)
        shape = (self.dim, self.vocabulary.size)
        head = self.param("head", named(normal, "embed", "vocab"), shape, self.param_dtype)
        return x, head[:, self.vocabulary.text :].astype(x.dtype), state

    def layout(self, prefix: int, frames: int, height: int, width: int) -> Layout:
        return Layout(prefix, frames, height, width)

    def header(self, frames: int, rate: int) -> Int[np.ndarray, "3"]:
        """What stands between text and frames: a start, the duration and the frames a second."""
        numbers = self.vocabulary.numbers + np.array([frames // rate, rate])
        return np.array([self.vocabulary.video_start, *numbers])

    def write(
        self, codes: Int[Array, "b t h w"], hidden: Bool[Array, "#b #t content"]
    ) -> Int[Array, "b t frame"]:
        """Frames as tokens, with the mask token where they are hidden (line ends may be, too)."""
        b, t, h, w = codes.shape
        known = self.vocabulary
        ends = jnp.full((b, t, h, 1), known.line_end)
        rows = jnp.concatenate([known.text + codes, ends], -1).reshape(b, t, h * (w + 1))
        rows = jnp.where(hidden, known.mask, rows)
        sides = [known.numbers + n * s // known.unit for n, s in zip((h, w), self.strides[1:])]
        around = lambda *tokens: jnp.broadcast_to(jnp.array(tokens), (b, t, len(tokens)))
        start, end = around(known.frame_start, *sides), around(known.frame_end)
        return jnp.concatenate([start, rows, end], -1)

    def _rotary(self, layout):
        spectrum = mm_spectrum(self.dim // self.heads, self.base)
        return lambda places: rotary_angles(layout.positions(places, self.strides)[0], spectrum)


def _attend_from(begin, q, k, v, mask, *, key_start, **options):
    """Attention to no token before `begin`: these fill up what is shorter than the others."""
    shown = key_start + jnp.arange(k.shape[1]) >= begin[:, None]
    return attention(q, k, v, mask, key_mask=shown, key_start=key_start, **options)
