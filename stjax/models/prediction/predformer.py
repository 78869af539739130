"""PredFormer (Tang et al. 2024, arXiv 2410.04733): gated transformers over space and time.

Frames are cut in patches; blocks attend over the patches of a frame ("S") or over the frames at
one patch ("T"), and the paper's study is the order of the two. All frames are predicted at once.
"""

import functools
import math
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.attention import SelfAttention
from stjax.layers.feed_forward import FeedForward, SwiGLU
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.repeat import repeat
from stjax.layers.stochastic_depth import DropPath
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.positions import sinusoid_table
from stjax.ops.sharding import at_edge

OPTIONS = {
    "order": ("full", "S-T", "T-S", "TS", "ST", "TST", "STS", "TSST", "STTS"),
    "gate": ("swiglu", "mlp"),
    "drop_path_rule": ("uniform", "linear"),
    "position": ("fixed", "learned"),
}
# How tokens (b, t, n, d) become sequences, for blocks over space, over time, and over both.
SEQUENCES = {"S": "(b t) n d", "T": "(b n) t d", "F": "b (t n) d"}


class GatedTransformerBlock(nn.Module):
    """Pre-norm attention, then a pre-norm feed-forward map of each token, both residual."""

    heads: int
    head_dim: int
    hidden: int
    gate: str
    dropout: float
    attn_dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rate: Float[Array, ""] | None, train: bool
    ) -> tuple[Float[Array, "b n d"], None]:
        x = at_edge(x)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, **dtypes)
        # As in the official code, one head of full width is not projected.
        project = (self.heads, self.head_dim) != (1, x.shape[-1])
        attention = SelfAttention(
            self.heads,
            self.head_dim,
            project=project,
            dropout=self.attn_dropout,
            name="attention",
            **dtypes,
        )
        feed_forward = SwiGLU if self.gate == "swiglu" else FeedForward
        feed_forward = feed_forward(self.hidden, self.dropout, name="feed_forward", **dtypes)
        attended = attention(norm(name="attention_norm")(x), train=train)
        self.sow("intermediates", "attended", attended)
        x = x + DropPath()(attended, rate, train=train)
        out = feed_forward(norm(name="feed_forward_norm")(x), train=train)
        return x + DropPath()(out, rate, train=train), None


class GatedTransformer(nn.Module):
    """Blocks over sequences, and a final norm of the residual stream."""

    depth: int
    remat: bool
    block: functools.partial
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rates: Float[Array, "depth"] | None, train: bool
    ) -> Float[Array, "b n d"]:
        blocks = repeat(self.block.func, self.depth, self.remat)
        x, _ = blocks(**self.block.keywords, name="blocks")(x, rates, train)
        x = nn.LayerNorm(1e-5, self.dtype, self.param_dtype, name="norm")(x)
        self.sow("intermediates", "out", x)
        return x


class Layer(nn.Module):
    """One gated transformer for each letter, in their order, from tokens (b, t, n, d) to tokens."""

    letters: str
    transformer: functools.partial
    skip: bool
    scramble: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t n d"], rates: Float[Array, "letters depth"] | None, train: bool
    ) -> tuple[Float[Array, "b t n d"], None]:
        batch, steps, patches, _ = x.shape
        tokens = x
        for i, letter in enumerate(self.letters):
            sequences = einops.rearrange(tokens, f"b t n d -> {SEQUENCES[letter]}")
            rate = None if rates is None else rates[i]
            sequences = self.transformer(name=f"transformer_{i}")(sequences, rate, train)
            tokens = einops.rearrange(
                sequences, f"{SEQUENCES[letter]} -> b t n d", b=batch, t=steps, n=patches
            )
        if self.scramble:
            tokens = sequences.reshape(x.shape)
        x = x + tokens if self.skip else tokens
        self.sow("intermediates", "out", x)
        return x, None


class PredFormer(nn.Module):
    """Predicts as many frames as it is given.

    Attributes:
        order: which encoder. "full": blocks over all tokens together; "S-T", "T-S": all blocks over
            space, then all over time, or the other way round; else a layer's blocks by letters.
        layers: number of layers; for "full", "S-T" and "T-S" the number of blocks of each kind.
        patch: side of a patch.
        dim: width of a token.
        heads, head_dim: of every attention.
        mlp_ratio: hidden units of a feed-forward map over `dim`.
        depth: blocks for each letter of a layer, with one final norm.
        gate: "swiglu", or "mlp": GELU and no gate.
        dropout, attn_dropout: rates in the feed-forward maps and after the attentions.
        drop_path: rate of stochastic depth, drawn for each sequence of a block.
        drop_path_rule: "uniform": all blocks alike; "linear": rising from 0 to `drop_path`.
        position: code of (time, patch): a "fixed" sinusoid or a "learned" table.
        skip: a residual connection around every layer (the paper's triplets on Human3.6M).
        scramble: leave the tokens of "S-T" in the wrong order, as the published code does.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    order: str = "TSST"
    layers: int = 6
    patch: int = 8
    dim: int = 256
    heads: int = 8
    head_dim: int = 32
    mlp_ratio: float = 4
    depth: int = 1
    gate: str = "swiglu"
    dropout: float = 0.0
    attn_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_rule: str = "uniform"
    position: str = "fixed"
    skip: bool = False
    scramble: bool = False
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "clip"

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t height width c"], *, train: bool = False
    ) -> Float[Array, "b t height width c"]:
        """The next t frames.

        Raises:
            ValueError: an unknown option, or a height or width that `patch` does not divide.
        """
        self._check()
        patches = patchify(video, self.patch)
        rows, columns, pixels = patches.shape[2:]
        tokens = einops.rearrange(patches, "b t h w d -> b t (h w) d")
        tokens = self._dense(pixels, self.dim, "embedding")(tokens)
        tokens = tokens + self._position(*tokens.shape[1:3]).astype(tokens.dtype)
        self.sow("intermediates", "embedded", tokens)
        tokens = self._encode(tokens, train)
        tokens = nn.LayerNorm(1e-5, self.dtype, self.param_dtype, name="head_norm")(tokens)
        tokens = self._dense(self.dim, pixels, "head")(tokens)
        patches = einops.rearrange(tokens, "b t (h w) d -> b t h w d", h=rows, w=columns)
        return unpatchify(patches, self.patch, order="channel row column")

    def _check(self):
        for field, known in OPTIONS.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"{field} {value!r} is not one of {', '.join(known)}")
        if self.scramble and self.order != "S-T":
            raise ValueError(f"scramble is for order 'S-T', not {self.order!r}")

    def _encode(self, tokens, train):
        """Layers of short transformers, or one layer of transformers that hold all blocks."""
        interleaved = self.order.isupper() and "-" not in self.order
        letters = "F" if self.order == "full" else self.order.replace("-", "")
        depth = self.depth if interleaved else self.layers
        shape = (len(letters), depth)
        layer = Layer
        if interleaved:
            shape, layer = (self.layers, *shape), repeat(Layer, self.layers)
        encoder = layer(letters, self._transformer(depth), self.skip, self.scramble, name="encoder")
        return encoder(tokens, self._rates(*shape), train)[0]

    def _transformer(self, depth):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = functools.partial(
            GatedTransformerBlock,
            heads=self.heads,
            head_dim=self.head_dim,
            hidden=int(self.dim * self.mlp_ratio),
            gate=self.gate,
            dropout=self.dropout,
            attn_dropout=self.attn_dropout,
            **dtypes,
        )
        return functools.partial(GatedTransformer, depth, self.remat, block, **dtypes)

    def _rates(self, *shape):
        """Stochastic depth's rate of every block; None where nothing is dropped."""
        if not self.drop_path:
            return None
        start = 0 if self.drop_path_rule == "linear" else self.drop_path
        return np.linspace(start, self.drop_path, math.prod(shape)).reshape(shape)

    def _position(self, steps, patches):
        shape = (steps, patches, self.dim)
        if self.position == "learned":
            return self.param("position", nn.initializers.normal(0.02), shape, self.param_dtype)
        return sinusoid_table(steps * patches, self.dim).reshape(shape)

    def _dense(self, inputs, outputs, name):
        return nn.Dense(
            outputs,
            kernel_init=torch_default,
            bias_init=torch_default_bias(inputs),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
