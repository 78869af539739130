"""Objects of a video as a few queries each, which read from the map of pixels and write to it.

Cutie's object memory and object transformer (Cheng et al. 2023, arXiv 2310.12982, sections 3.2 and
3.3), with the foreground-background masked attention that it has of Mask2Former (arXiv 2112.01527).
Every object of a sample has a map of its own, (b, n, h, w, c); masks are (b, h, w, n).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stjax.layers.attention import MultiHeadAttention
from stjax.layers.convolution import torch_conv
from stjax.layers.feed_forward import FeedForward
from stjax.layers.initializers import torch_default
from stjax.layers.repeat import repeat
from stjax.layers.squeeze_excite import CAResBlock
from stjax.ops.objects import aggregate
from stjax.ops.positions import sinusoid_map
from stjax.ops.sharding import at_edge

ObjectMaps = Float[Array, "b n h w c"]
Memory = Float[Array, "b n q c+1"]

# Places of pixels are coded from 0 to the first, with periods up to the second.
_SCALE, _BASE = 32, 128


class ObjectSummarizer(nn.Module):
    """Sums up what a map says of an object in a few vectors: sums over pixels, and their weights.

    A summary is sum_p w_p f_p and sum_p w_p, with w_p = sigmoid(a map of the value at p) times the
    object's mask (the first half of the summaries) or times what it leaves (the second half).
    Summaries of several frames can be added. In float32 at least.

    Attributes:
        summaries: how many of each object, even.
        width: of a summary.
    """

    summaries: int
    width: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, masks: Float[Array, "b h w n"], values: ObjectMaps) -> Memory:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        values = torch_conv(values, self.width, "project", **types)
        values = values + _places(values)
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        types["dtype"] = values.dtype

        def mlp(features, name):
            hidden = nn.relu(torch_conv(values, self.width, f"{name}_in", after="mlp", **types))
            return torch_conv(hidden, features, f"{name}_out", before="mlp", **types)

        inside = jnp.moveaxis(masks, -1, 1)[..., None].astype(values.dtype)
        shown = jnp.repeat(jnp.concatenate([inside, 1 - inside], -1), self.summaries // 2, -1)
        weights = nn.sigmoid(mlp(self.summaries, "weights")) * shown
        sums = jnp.einsum("bnhwq,bnhwc->bnqc", weights, mlp(self.width, "features"))
        return jnp.concatenate([sums, weights.sum((2, 3))[..., None]], -1)


class QueryTransformerBlock(nn.Module):
    """Queries read from the pixels they may see, from each other; then pixels read from queries.

    As published, what attention adds to is the normalised input, not the input itself.

    Attributes:
        heads: of all attentions.
        hidden: units of the queries' feed-forward map.
    """

    heads: int
    hidden: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry, _: None, train: bool):
        """The carry: queries (m, q, c), pixels (m, h, w, c), codes of both, logits (b, h, w, n)."""
        del train
        queries, pixels, (query_codes, pixel_codes), logits = carry
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda x, name: nn.LayerNorm(1e-5, name=f"{name}_norm", **types)(x)
        attend = lambda name: MultiHeadAttention(self.heads, **types, name=name)
        count, height, width, channels = pixels.shape
        tokens = at_edge(pixels.reshape(count, height * width, channels))

        blocked = foreground_background(logits, queries.shape[1])
        x = norm(queries, "read_from_pixel")
        hidden = jnp.where(blocked, -jnp.inf, 0)[:, None]
        x = x + attend("read_from_pixel")(x + query_codes, tokens + pixel_codes, tokens, hidden)
        x = norm(x, "self_attention")
        x = x + attend("self_attention")(x + query_codes, x + query_codes, x)
        feed_forward = FeedForward(
            self.hidden, activation=nn.relu, kernel_init=torch_default, **types,
            name="feed_forward",
        )
        x = x + feed_forward(norm(x, "feed_forward"))
        tokens = tokens + attend("read_from_query")(tokens + pixel_codes, x + query_codes, x)
        pixels = CAResBlock(**types, name="pixel_feed_forward")(tokens.reshape(pixels.shape))
        logits = mask_logits(pixels, len(logits), "mask", **types)
        return (x, pixels, (query_codes, pixel_codes), logits), logits


class ObjectTransformer(nn.Module):
    """Maps of objects, enriched by what the memory holds of them.

    The first half of the queries see where their object is the likeliest, the second half where it
    is not, by masks that are predicted before the first block and after each.

    Attributes:
        queries: of each object, even: as many as the memory has summaries.
        blocks, heads, hidden: depth, heads, and hidden units of the queries' feed-forward map.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    queries: int = 16
    blocks: int = 3
    heads: int = 8
    hidden: int = 2048
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: ObjectMaps, memory: Memory, *, train: bool = False
    ) -> tuple[ObjectMaps, Float[Array, "levels b h w n"]]:
        """The maps, and the logits of the masks that were predicted on the way.

        Raises:
            ValueError: a memory of as many summaries as there are not queries.
        """
        b, n, height, width, channels = maps.shape
        if memory.shape != (b, n, self.queries, channels + 1):
            raise ValueError(
                f"memory: {memory.shape} instead of {(b, n, self.queries, channels + 1)}"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = lambda x, name: torch_conv(x, channels, name, **types)
        # Objects are samples from here on.
        memory = memory.reshape(b * n, self.queries, channels + 1)
        summaries = (memory[..., :-1] / (memory[..., -1:] + 1e-4)).astype(maps.dtype)
        learned = lambda name: self.param(
            name, nn.initializers.normal(1.0), (self.queries, channels), self.param_dtype
        ).astype(maps.dtype)
        queries = learned("query") + conv(summaries, "summary_to_query")
        query_codes = learned("query_code") + conv(summaries, "summary_to_query_code")

        maps = maps.reshape(b * n, height, width, channels)
        pixels, codes = conv(maps, "pixel"), _places(maps) + conv(maps, "pixel_code")
        codes = query_codes, codes.reshape(b * n, height * width, channels)
        first = mask_logits(pixels, b, "mask", **types)
        blocks = repeat(QueryTransformerBlock, self.blocks, self.remat)
        carry, logits = blocks(self.heads, self.hidden, **types, name="blocks")(
            (queries, pixels, codes, first), None, train
        )
        pixels = carry[1].reshape(b, n, height, width, channels)
        return pixels, jnp.concatenate([first[None], logits])


def mask_logits(
    pixels: Float[Array, "m h w c"], batch: int, name: str, **types: Any
) -> Float[Array, "batch h w n"]:
    """How likely each pixel is of the map's object: a new layer of the calling module."""
    logits = torch_conv(nn.relu(pixels), 1, name, **types)
    return jnp.moveaxis(logits.reshape(batch, -1, *logits.shape[1:3]), 1, -1)


def foreground_background(
    logits: Float[Array, "b h w n"], queries: int
) -> Bool[Array, "m q pixels"]:
    """Which pixels are hidden from which queries of each object: m = b n.

    An object has the pixels where none of the others, and not the background, is likelier. Queries
    that would see nothing see everything.
    """
    likely = aggregate(nn.sigmoid(logits))
    own = jnp.moveaxis(likely[..., 1:] >= likely.max(-1, keepdims=True), -1, 1)
    own = own.reshape(-1, 1, own.shape[2] * own.shape[3])
    hidden = jnp.repeat(jnp.concatenate([~own, own], 1), queries // 2, axis=1)
    return hidden & ~hidden.all(-1, keepdims=True)


def _places(maps: Float[Array, "... h w c"]) -> Float[Array, "h w c"]:
    codes = sinusoid_map(*maps.shape[-3:], scale=_SCALE, base=_BASE)
    return jnp.asarray(codes, maps.dtype)
