"""Spatially-Aware Transformers (Cho, Yoon and Ahn 2024, arXiv 2402.15160): memory that knows where.

What an agent sees is kept with a code of when and a code of where it was. It is read whole or by
chunks (HCAM), and the chunks are stretches of time or, in a place memory, of what was seen in one
place. What a full memory gives up is chosen by a small value network, the adaptive memory
allocator, among heuristics of which two look at places.

The paper's names of the variants: T-FIFO is `cam`, T-FIFO-A `cama`, SAT-FIFO `cams`, SAT-FIFO-TH
`thcams` (`hcams`), SAT-PM-PH `shcams` (`space_model`).
"""

from typing import Any, Literal, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stjax.layers.feed_forward import FeedForward
from stjax.layers.hcam import HCAM
from stjax.layers.initializers import torch_default
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.up_conv import UpConv
from stjax.ops.attention import attention
from stjax.ops.episodic_memory import HEURISTICS, place_order
from stjax.ops.positions import sinusoidal
from stjax.ops.sharding import at_edge


class Variant(NamedTuple):
    """How a memory is written and read.

    Attributes:
        plain: self-attention over memory and queries together, and not queries that read.
        actions: a token of the action after every observation.
        places: codes of places.
        chunks: hierarchical reading.
        by_place: the chunks are those of a place memory, not of time.
    """

    plain: bool = False
    actions: bool = False
    places: bool = False
    chunks: bool = False
    by_place: bool = False


VARIANTS = {
    "tr": Variant(plain=True),
    "tra": Variant(plain=True, actions=True),
    "cam": Variant(),
    "cama": Variant(actions=True),
    "cams": Variant(places=True),
    "thcams": Variant(places=True, chunks=True),
    "shcams": Variant(places=True, chunks=True, by_place=True),
}
VARIANTS |= {"hcams": VARIANTS["thcams"], "space_model": VARIANTS["shcams"]}


def sine_code(index: Int[Array, "*n"], length: int, features: int) -> Float[Array, "*n features"]:
    """Rows of a table of sinusoidal codes that runs backwards: the last row is position 0."""
    return sinusoidal(length - 1 - index, features)


class QueryAttention(nn.Module):
    """Every token attends to the tokens of its question, or of its sequence."""

    heads: int
    head_dim: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n q d"]) -> Float[Array, "b n q d"]:
        dense = lambda features, name, *axes, axis=-1, bias=False: nn.DenseGeneral(
            features, axis, use_bias=bias, dtype=self.dtype, param_dtype=self.param_dtype,
            kernel_init=named(torch_default, *axes), name=name,
        )
        heads = (self.heads, self.head_dim)
        query = dense(heads, "query", "embed", "heads", None)(x)
        key_value = dense((2, *heads), "key_value", "embed", None, "heads", None)(x)
        apart = lambda x: einops.rearrange(x, "b n ... -> (b n) ...")
        y = attention(apart(query), *jnp.moveaxis(apart(key_value), 2, 0)).reshape(query.shape)
        return dense(x.shape[-1], "out", "heads", None, "embed", axis=(-2, -1), bias=True)(y)


class MemoryLayer(nn.Module):
    """Queries attend to those of their question, read the memory, and pass a map of their own.

    The memory is the same for all layers: it is neither normalised nor changed. Without `reads`
    this is a layer of an ordinary transformer.
    """

    heads: int
    head_dim: int
    hidden: int
    chunk: int = 1
    top_k: int = 0
    reads: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: tuple[Array, Array | None, Array | None], each: None, train: bool):
        del each
        x, memory, mask = carry
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda name: nn.LayerNorm(1e-5, use_fast_variance=False, name=name, **dtypes)
        heads = (self.heads, self.head_dim)
        x = at_edge(x)
        x = x + QueryAttention(*heads, name="attention", **dtypes)(norm("attention_norm")(x))
        self.sow("intermediates", "attended", x)
        if self.reads:
            read = HCAM(*heads, self.chunk, self.top_k, name="hcam", **dtypes)
            queries = einops.rearrange(norm("hcam_norm")(x), "b n q d -> b (n q) d")
            x = x + read(queries, memory, mask).reshape(x.shape)
            self.sow("intermediates", "read", x)
        feed_forward = FeedForward(
            self.hidden, activation=nn.relu, kernel_init=torch_default, name="mlp", **dtypes
        )
        x = x + feed_forward(norm("mlp_norm")(x), train=train)
        self.sow("intermediates", "out", x)
        return (x, memory, mask), None


class MemoryTransformer(nn.Module):
    """Layers of queries that read one memory (`MemoryLayer`), or an ordinary transformer.

    Attributes:
        layers: how many.
        variant: a name of `VARIANTS`.
        heads, head_dim, hidden: of the attentions and of the maps.
        chunk, top_k: of hierarchical reading; the other variants see all items.
    """

    layers: int = 4
    variant: str = "shcams"
    heads: int = 2
    head_dim: int = 64
    hidden: int = 128
    chunk: int = 32
    top_k: int = 4
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b n q d"],
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n q d"]:
        """What the queries of n questions become, which do not see each other.

        Raises:
            ValueError: an unknown variant.
        """
        kind = variant(self.variant)
        chunk, top_k = (self.chunk, self.top_k) if kind.chunks else (1, 0)
        stack = repeat(MemoryLayer, self.layers, self.remat)(
            self.heads, self.head_dim, self.hidden, chunk, top_k, not kind.plain,
            dtype=self.dtype, param_dtype=self.param_dtype, name="layers",
        )
        if kind.plain:
            alike = jnp.broadcast_to(memory[:, None], (*queries.shape[:2], *memory.shape[1:]))
            both = jnp.concatenate([alike, queries], axis=2)
            return stack((both, None, None), None, train)[0][0][:, :, memory.shape[1] :]
        return stack((queries, memory, mask), None, train)[0][0]


class FrameEncoder(nn.Module):
    """Frames to vectors: convolutions without padding, each with a rectifier; a linear map.

    The defaults are those of Room Ballet's `CNN`; `CNNSmall` has features (64, 64, 32) and both
    windows and strides (2, 2, 2).

    Attributes:
        gain: of the last map's initial kernel. Codes are vectors of length sqrt(width / 2), in
            which new encodings of frames that differ little are lost for long.
    """

    width: int = 128
    features: tuple[int, ...] = (16, 32)
    windows: tuple[int, ...] = (9, 3)
    strides: tuple[int, ...] = (9, 1)
    gain: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Float[Array, "b n h w c"]) -> Float[Array, "b n width"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = einops.rearrange(frames, "b n h w c -> (b n) h w c")
        for k, (features, window, stride) in enumerate(
            zip(self.features, self.windows, self.strides)
        ):
            conv = nn.Conv(
                features, (window, window), stride, "VALID", name=f"conv_{k}",
                kernel_init=nn.initializers.he_normal(), **dtypes,
            )
            x = nn.relu(conv(x))
        x = x.reshape(*frames.shape[:2], -1)
        init = nn.initializers.variance_scaling(self.gain**2 / 3, "fan_in", "uniform")
        return nn.Dense(self.width, kernel_init=init, name="out", **dtypes)(x)


class ViewDecoder(nn.Module):
    """`DeCNNSmall`: vectors to views in [0, 1], eight times as large as the first map (2 x 2)."""

    features: tuple[int, ...] = (32, 64, 64)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n h w 3"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        first, *rest = self.features
        maps = nn.Dense(4 * first, kernel_init=torch_default, name="in", **dtypes)(x)
        y = einops.rearrange(nn.relu(maps), "b n (h w c) -> (b n) h w c", h=2, w=2)
        for k, features in enumerate(rest):
            y = nn.relu(UpConv(features, name=f"up_{k}", **dtypes)(y))
        y = UpConv(3, name=f"up_{len(rest)}", **dtypes)(y)
        return ((jnp.tanh(y) + 1) / 2).reshape(*x.shape[:2], *y.shape[1:])


class SpatiallyAwareTransformer(nn.Module):
    """Answers a question about an episode: frames that were seen when and where, to logits.

    Attributes:
        encoder: of frames; its width is that of the codes.
        memory: what reads.
        classes: of answers.
        places, steps: lengths of the tables of codes of where and when.
        period: after how many steps a room shows the same again.
        time_index: what the code of when is of: "absolute", the step; or "modulo", the step in its
            period, as the authors' short-stay code has it (by a copy that shares its storage).
        masked: whether items may be missing; their absence is then allowed for in chunks' means.
    """

    encoder: FrameEncoder
    memory: MemoryTransformer
    classes: int = 8
    places: int = 25
    steps: int = 1280
    period: int = 32
    time_index: Literal["absolute", "modulo"] = "absolute"
    masked: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        frames: Float[Array, "b f h w c"],
        seen: Int[Array, "b t"],
        places: Int[Array, "b t"],
        times: Int[Array, "b t"],
        asked: Int[Array, "b n q"],
        *,
        train: bool = False,
    ) -> Float[Array, "b n classes"]:
        """Logits of the answers to n questions about each episode.

        Args:
            frames: all frames there are, each once.
            seen, places, times: of the memory's items, in time's order: which frame (-1: the item
                does not exist), where and when.
            asked: the q frames that are a question; what these queries become is averaged.

        Raises:
            ValueError: an unknown variant, or one that needs actions.
        """
        kind = variant(self.memory.variant)
        if kind.actions:
            raise ValueError(f"variant: {self.memory.variant!r} keeps actions; there are none here")
        take = jax.vmap(lambda table, index: table[index])
        times = times % self.period if self.time_index == "modulo" else times
        slots = jnp.broadcast_to(jnp.arange(seen.shape[1]), seen.shape)
        mask = (seen >= 0) if self.masked else None
        if kind.by_place:
            slots = by_place(places, self.places, self.memory.chunk)
            seen, places, times = (take(x, slots) for x in (seen, places, times))
            mask = (slots >= 0) & (seen >= 0)
        self.sow("intermediates", "slots", slots)
        features = self.encoder(frames)
        width, dtype = features.shape[-1], features.dtype
        items = take(features, seen) + sine_code(times, self.steps, width).astype(dtype)
        if kind.places:
            items += sine_code(places, self.places, width).astype(dtype)
        self.sow("intermediates", "items", items)
        out = self.memory(take(features, asked), items, mask, train=train)
        head = nn.Dense(
            self.classes, dtype=self.dtype, param_dtype=self.param_dtype,
            kernel_init=torch_default, name="head",
        )
        return head(out.mean(2))

    def looks(
        self, inner: dict[str, Any], steps: int, queries: int
    ) -> Float[Array, "b steps"]:
        """How far the layers looked, on average, at each item for the first question, by time.

        A chunk's weight is shared by its items.

        Args:
            inner: the intermediates of one call.
            steps: items of the memory.
            queries: of a question.
        """
        if variant(self.memory.variant).plain:
            raise ValueError("looks: an ordinary transformer reads no chunks")
        scores, slots = inner["memory"]["layers"]["hcam"]["scores"][0], inner["slots"][0]
        scores = scores[:, :, :queries]
        chunks = scores.shape[-1]
        size = -(-slots.shape[1] // chunks)
        slots = jnp.pad(slots, ((0, 0), (chunks * size - slots.shape[1], 0)), constant_values=-1)
        top_k = self.memory.top_k if variant(self.memory.variant).chunks else 0
        least = jnp.sort(scores, axis=-1)[..., -(top_k or chunks), None]
        weights = jax.nn.softmax(jnp.where(scores >= least, scores, -jnp.inf)).mean((0, 2))
        held = (slots >= 0).reshape(-1, chunks, size)
        each = (weights / jnp.maximum(held.sum(2), 1))[..., None] * held
        place = jnp.where(slots >= 0, slots, steps)
        put = lambda each, place: jnp.zeros(steps).at[place].add(each, mode="drop")
        return jax.vmap(put)(each.reshape(slots.shape), place)


class ViewImagination(nn.Module):
    """What an agent would see along a way it has not gone, from what it saw on another.

    The memory holds the views of a walk over a grid; the queries are the view that a second walk
    starts from and the actions it would take. All views come out at once.

    Attributes:
        encoder, memory, decoder: the parts.
        grid: rows, and columns, of places.
        clusters: places of a place memory: so many groups of cells.
        actions: how many there are.
    """

    encoder: FrameEncoder
    memory: MemoryTransformer
    decoder: ViewDecoder
    grid: int = 10
    clusters: int = 8
    actions: int = 4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        views: Float[Array, "b cells h w c"],
        positions: Int[Array, "b t 2"],
        actions: Int[Array, "b t-1"],
        groups: Int[Array, "b m"],
        *,
        train: bool = False,
    ) -> Float[Array, "b t-m h w 3"]:
        """Views at positions[:, m:], the first one of which was given.

        Args:
            views: of all cells, row by row.
            positions: (row, column); the first m are those of the memory.
            actions: taken at each position but the last; none leads from one walk to the other.
            groups: the cells' groups at the first m positions.
        """
        kind = variant(self.memory.variant)
        length = groups.shape[1]
        take = jax.vmap(lambda table, index: table[index])
        views = self.encoder(views)
        width, dtype = views.shape[-1], views.dtype
        embed = nn.Embed(
            self.actions, width, dtype=self.dtype, param_dtype=self.param_dtype,
            embedding_init=named(nn.initializers.normal(1.0), None, "embed"), name="actions",
        )
        done = embed(actions)
        seen = take(views, positions[..., 0] * self.grid + positions[..., 1])[:, : length + 1]
        self.sow("intermediates", "features", seen)
        items, first = seen[:, :-1], seen[:, -1:]
        if kind.places:
            # One table for rows and columns: columns come first.
            index = positions[:, :length] + jnp.array([self.grid, 0])
            items += sine_code(index, 2 * self.grid, width).mean(2).astype(dtype)
        if kind.actions:
            items = jnp.stack([items, done[:, :length].astype(dtype)], 2)
            items = items.reshape(len(items), 2 * length, width)
        queries = jnp.concatenate([first, done[:, length:].astype(dtype)], axis=1)
        total = items.shape[1] + queries.shape[1]
        codes = sine_code(jnp.arange(total), total, width).astype(dtype)
        items, queries = items + codes[: items.shape[1]], queries + codes[items.shape[1] :]
        mask = None
        if kind.by_place:
            slots = by_place(groups, self.clusters, self.memory.chunk, 2 * length, "drop")
            items, mask = take(items, slots), slots >= 0
        tokens = self.memory(queries[:, None], items, mask, train=train)[:, 0]
        self.sow("intermediates", "tokens", tokens)
        return self.decoder(tokens)


class AdaptiveMemoryAllocator(nn.Module):
    """The value of every heuristic for each task, of which the greatest is applied."""

    hidden: int = 64
    heuristics: int = len(HEURISTICS)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tasks: Float[Array, "b tasks"]) -> Float[Array, "b heuristics"]:
        dense = lambda features, name: nn.Dense(
            features, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=torch_default,
            name=name,
        )
        return dense(self.heuristics, "out")(nn.relu(dense(self.hidden, "in")(tasks)))


def variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"variant: {name!r} is none of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def by_place(
    places: Int[Array, "b t"],
    num_places: int,
    chunk: int,
    length: int | None = None,
    rest: Literal["pad", "drop"] = "pad",
) -> Int[Array, "b length"]:
    """Which item lies in each slot of a place memory, -1 for none (`place_order`, of a batch)."""
    length = length or num_places * chunk + places.shape[1]
    return jax.vmap(lambda p: place_order(p, num_places, chunk, length, rest))(places)
