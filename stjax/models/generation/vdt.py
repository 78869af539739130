"""VDT (Lu et al. 2023, arXiv 2305.13311): video diffusion transformers by mask modelling.

A DiT whose blocks attend over time before they attend over space. It sees a clip whose given parts
are clean and whose other parts are noised, and is not told which are which; what it predicts of the
given parts is never used (see `stjax.tasks.masked_diffusion`).
"""

import functools
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Int, Num

from stjax.layers import dit
from stjax.layers.attention import CrossAttention
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.space_time import Over
from stjax.ops.patches import patchify, unpatchify
from stjax.ops.positions import sinusoidal_grid

CONDITIONINGS = ("token", "adaln", "cross")


class TransformerBlock(nn.Module):
    """Temporal attention, spatial attention, a feed-forward map: each residual.

    The temporal branch has an affine norm, a linear map behind it, and neither modulation nor gate;
    the other two are a DiT block's. Its linear map does not start at zero, so that at the start the
    temporal branch alone does something.

    Attributes:
        heads: of every attention.
        mlp_ratio: hidden units of the feed-forward map over the channels.
        temporal: whether there is a temporal branch.
    """

    heads: int
    mlp_ratio: float
    temporal: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t n d"],
        each: None,
        c: Float[Array, "b d"],
        given: Float[Array, "b m d"] | None,
        train: bool,
    ) -> tuple[Float[Array, "b t n d"], None]:
        """`given` are the tokens that cross-attention looks at, if there is any."""
        del each
        dim, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, 1e-5, use_fast_variance=False, **types)
        attention = functools.partial(dit.self_attention, self.heads, dim, **types)
        if self.temporal:
            y = norm(name="temporal_norm")(x)
            y = Over("time", attention, name="temporal_attention")(y, train=train)
            self.sow("intermediates", "attended_over_time", y)
            init = named(dit.xavier, "embed", None)
            x = x + nn.Dense(dim, kernel_init=init, **types, name="temporal_fc")(y)
        if given is not None:
            y = einops.rearrange(norm(name="cross_norm")(x), "b t n d -> b (t n) d")
            cross = CrossAttention(
                self.heads, dim // self.heads, True, dit.xavier, **types, name="cross_attention"
            )
            x = x + cross(y, given).reshape(x.shape)
        space = functools.partial(Over, "space", attention)
        x = dit.DiTBlock(self.heads, self.mlp_ratio, space, **types, name="spatial")(
            x, c, train=train
        )
        self.sow("intermediates", "out", x)
        return x, None


class VDT(nn.Module):
    """From a partly noised clip and the time of the process to what the noise is.

    Attributes:
        depth, dim, heads: blocks, width of a token, heads of every attention.
        patch: side of a patch.
        mlp_ratio: hidden units of the feed-forward maps over `dim`.
        learn_sigma: whether as many channels again say what the variance is.
        temporal: whether there is temporal attention, and a code of the frame; False is the
            published mode "image", in which frames know nothing of each other.
        classes, label_dropout: of the label that is added to the time's vector. The published
            networks have one class, and know none where a label was dropped.
        conditioning: how frames that are given besides the noised ones come in. "token": they do
            not; they are put in their place in the clip. The paper's two others, of which no code
            was published: "adaln": the mean of their tokens, mapped once, is added to the time's
            vector; "cross": every block attends to their tokens, after its temporal branch.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    depth: int = 12
    dim: int = 384
    heads: int = 6
    patch: int = 2
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    temporal: bool = True
    classes: int = 1
    label_dropout: float = 0.1
    conditioning: str = "token"
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t height width c"],
        times: Num[Array, "b"],
        condition: Float[Array, "b s height width c"] | None = None,
        labels: Int[Array, "b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b t height width k"]:
        """The prediction, c channels, and after it the variance's c channels where it is learned.

        Args:
            x: the clip: noised, clean where it is given.
            times: of the process, 0 to 999 in the published networks.
            condition: clean frames that come before those of x; with "adaln" and "cross" alone.
            labels: None: the first class.

        Raises:
            ValueError: names the argument or field that does not fit.
        """
        self._check(x, condition)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        c = dit.TimestepEmbedding(self.dim, **types, name="time")(times)
        self.sow("intermediates", "time_vector", c)
        labels = jnp.zeros(len(x), jnp.int32) if labels is None else labels
        label = dit.LabelEmbedding(
            self.classes, self.dim, self.label_dropout, **types, name="label"
        )
        c = c + label(labels, train=train)

        frames = x if condition is None else jnp.concatenate([condition, x], 1)
        tokens, (rows, columns) = self._embed(frames)
        given, tokens = jnp.split(tokens, [frames.shape[1] - x.shape[1]], 1)
        if self.conditioning == "adaln":
            init = named(dit.xavier, "embed", None)
            condition = nn.Dense(self.dim, kernel_init=init, **types, name="condition")
            c = c + condition(given.mean((1, 2)))
        given = given.reshape(len(x), -1, self.dim) if self.conditioning == "cross" else None

        block = repeat(TransformerBlock, self.depth, self.remat, shared=2, convolves=False)
        tokens, _ = block(self.heads, self.mlp_ratio, self.temporal, **types, name="blocks")(
            tokens, None, c, given, train
        )
        features = x.shape[-1] * (1 + self.learn_sigma)
        out = dit.FinalLayer(self.patch**2 * features, **types, name="final")(tokens, c)
        out = einops.rearrange(out, "b t (h w) d -> b t h w d", h=rows, w=columns)
        return unpatchify(out, self.patch)

    def _embed(self, frames):
        """Tokens of patches with the codes of their places, and how many rows and columns."""
        patches = patchify(frames, self.patch)
        length, rows, columns = patches.shape[1:4]
        embed = nn.Dense(
            self.dim,
            kernel_init=named(dit.xavier, None, "embed"),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="patches",
        )
        tokens = embed(einops.rearrange(patches, "b t h w d -> b t (h w) d"))
        self.sow("intermediates", "embedded", tokens)
        # As published, the first half of the code says which column.
        place = sinusoidal_grid((rows, columns), self.dim, order=(1, 0)).reshape(-1, self.dim)
        tokens = tokens + place.astype(tokens.dtype)
        if self.temporal:
            frame = sinusoidal_grid((length,), self.dim)[:, None]
            tokens = tokens + frame.astype(tokens.dtype)
        return tokens, (rows, columns)

    def _check(self, x, condition):
        if self.conditioning not in CONDITIONINGS:
            raise ValueError(
                f"conditioning: {self.conditioning!r} is none of {', '.join(CONDITIONINGS)}"
            )
        if x.ndim != 5:
            raise ValueError(f"x: {x.shape} instead of (b, t, height, width, c)")
        if (condition is None) != (self.conditioning == "token"):
            shape = None if condition is None else condition.shape
            raise ValueError(f"condition: {shape} with conditioning {self.conditioning!r}")


def with_spatial(video: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a video model whose spatial modules are those of an image model.

    The paper's space-time decoupled training: a model without `temporal` is trained on single
    frames, then the temporal branches, as they start, are put into it.
    """
    flat = traverse_util.flatten_dict(image)
    return traverse_util.unflatten_dict({**traverse_util.flatten_dict(video), **flat})
