"""STTN (Xu et al. 2020, arXiv 2001.02908): transformers over sensors and over time for traffic.

Attention over the sensors of a step is a graph of its own, directed and new at every step; a gate
blends it with a convolution on the road network, which is fixed. Attention over the steps of a
sensor follows. The paper, its authors' code and LibCity's differ; `VARIANTS` names all three.
"""

import functools
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from stjax.layers.graph_convolution import GraphConvolution
from stjax.layers.norm import joint_layer_norm
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.ops.attention import attention
from stjax.ops.graph import chebyshev, scaled_laplacian, standardised
from stjax.ops.sharding import at_edge

OPTIONS = {
    "positions": ("mixed", "branches", "query", "none"),
    "spatial": ("gate", "sum", "dynamic", "fixed"),
    "temporal": ("attention", "glu"),
    "graph": ("chebyshev", "gcn"),
    "head": ("direct", "one_step"),
}
# The fields in which the authors' code and LibCity's are not the paper's network.
VARIANTS = {
    "paper": {},
    "official": {
        "positions": "branches", "spatial": "sum", "head": "one_step", "rectified": True,
        "heads": 1, "embed": 32, "hidden": (128,), "epsilon": 1e-12,
    },
    "libcity": {
        "positions": "query", "graph": "gcn", "shared_heads": True, "hidden": (256,),
        "epsilon": 1e-5,
    },
}  # fmt: skip
# The tokens of a sequence, for attention over sensors and over time.
SEQUENCES = {"nodes": "(b t) n c", "steps": "(b n) t c"}
Series = Float[Array, "b t n c"]


class Encoded(NamedTuple):
    """What the branches of a half of a block see once positions are known."""

    query: Series
    source: Series
    graph: Series
    skip: Series


class PositionalEmbedding(nn.Module):
    """Learned tables of the sensors, (n, n), and of the steps, (t, t).

    The paper ("mixed") concatenates them to the channels and maps all to `features`. The authors'
    code ("branches") gives each branch a map of its own and the graph the concatenation. LibCity
    ("query") maps the sensors' table, has `slots` steps, and adds them to the queries alone.

    Attributes:
        adjacency: what the sensors' table starts from; None: there is none.
        steps: whether there is a table of the steps.
    """

    features: int
    positions: str
    adjacency: Float[np.ndarray, "n n"] | None
    steps: bool
    slots: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series) -> Encoded:
        dense = functools.partial(
            nn.Dense, self.features, dtype=self.dtype, param_dtype=self.param_dtype
        )
        if self.positions == "none":
            return Encoded(x, x, x, x)
        if self.positions == "query":
            code = 0.0
            if self.adjacency is not None:
                code += dense(name="map")(self._sensors())
            if self.steps:
                shape, init = (self.slots, self.features), nn.initializers.normal(1.0)
                code += self.param("steps", init, shape, self.param_dtype)[: x.shape[1], None]
            return Encoded(x + code.astype(x.dtype), x, x, x)
        tables = [x]
        if self.adjacency is not None:
            tables.append(self._sensors())
        if self.steps:
            eye = lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype)
            shape = (x.shape[1], x.shape[1])
            tables.append(self.param("steps", eye, shape, self.param_dtype)[:, None])
        over = lambda table: jnp.broadcast_to(table, (*x.shape[:-1], table.shape[-1]))
        joined = jnp.concatenate([over(table).astype(x.dtype) for table in tables], -1)
        if self.positions == "mixed":
            mixed = dense(name="map")(joined)
            return Encoded(mixed, mixed, mixed, x)
        tokens = dense(use_bias=False, name="map")(joined)
        return Encoded(tokens, tokens, joined, dense(use_bias=False, name="skip")(joined))

    def _sensors(self):
        start = lambda key, shape, dtype: jnp.asarray(self.adjacency, dtype)
        return self.param("sensors", start, self.adjacency.shape, self.param_dtype)


class Attention(nn.Module):
    """Multi-head attention; every head is one relation of the tokens.

    Attributes:
        shared: as in LibCity, channels are cut into heads first, and all heads share maps without
            bias; the logits are scaled by the width of all channels.
    """

    heads: int
    shared: bool
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(
        self, query: Float[Array, "b n c"], source: Float[Array, "b n c"], train: bool
    ) -> Float[Array, "b n c"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = query.shape[-1]
        shape = (self.heads, channels // self.heads)

        def project(x, name):
            if self.shared:
                x = x.reshape(*x.shape[:-1], *shape)
                return nn.Dense(shape[1], use_bias=False, **types, name=name)(x)
            kernel_init = named(nn.initializers.lecun_normal(), "embed", "heads", None)
            bias_init = named(nn.initializers.zeros, "heads", None)
            return nn.DenseGeneral(
                shape, kernel_init=kernel_init, bias_init=bias_init, **types, name=name
            )(x)

        dropped = self.dropout if train else 0.0
        q, k, v = project(query, "query"), project(source, "key"), project(source, "value")
        y = attention(
            q, k, v,
            scale=channels**-0.5 if self.shared else None,
            dropout=dropped,
            dropout_key=self.make_rng("dropout") if dropped else None,
        )  # fmt: skip
        kernel_init = named(nn.initializers.lecun_normal(), "heads", None, "embed")
        return nn.DenseGeneral(
            channels, axis=(-2, -1), kernel_init=kernel_init, **types, name="out"
        )(y)


class Transformer(nn.Module):
    """Attention and a feed-forward map of each token, a residual and a norm after both.

    Over the sensors of a step ("nodes") it is the paper's dynamical graph convolution, over the
    steps of a sensor ("steps") its temporal transformer.
    """

    axis: str
    heads: int
    hidden: tuple[int, ...]
    shared_heads: bool
    dropout: float
    epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, query: Series, source: Series, train: bool) -> Series:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pattern, sizes = SEQUENCES[self.axis], dict(zip("btn", query.shape))
        query, source = (einops.rearrange(x, f"b t n c -> {pattern}") for x in (query, source))
        drop = lambda x: nn.Dropout(self.dropout)(x, deterministic=not train)
        norm = functools.partial(nn.LayerNorm, self.epsilon, use_fast_variance=False, **types)
        attended = Attention(
            self.heads, self.shared_heads, self.dropout, **types, name="attention"
        )(query, source, train)
        x = norm(name="attention_norm")(query + drop(attended))
        y = x
        names = ("embed", "mlp", *[None] * (len(self.hidden) - 1), "embed")
        for i, width in enumerate((*self.hidden, x.shape[-1])):
            init = named(nn.initializers.lecun_normal(), *names[i : i + 2])
            dense = nn.Dense(width, kernel_init=init, **types, name=f"feed_forward_{i}")
            y = dense(nn.relu(y) if i else y)
        y = norm(name="feed_forward_norm")(x + drop(y))
        return einops.rearrange(y, f"{pattern} -> b t n c", **sizes)


class GCN(nn.Module):
    """LibCity's fixed graph: two graph convolutions, then, unusually, a log-softmax of channels."""

    features: int
    supports: Float[np.ndarray, "k n n"]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series) -> Series:
        convolve = functools.partial(
            GraphConvolution, supports=self.supports, dtype=self.dtype, param_dtype=self.param_dtype
        )
        x = nn.relu(convolve(2 * self.features, name="in")(x))
        return nn.log_softmax(convolve(self.features, name="out")(x))


class TemporalGLU(nn.Module):
    """A gated convolution over three steps, as STGCN has it: the arm without temporal attention."""

    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series) -> Series:
        around = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        near = jnp.concatenate([around[:, i : i + x.shape[1]] for i in range(3)], -1)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.glu(nn.Dense(2 * self.features, **types, name="conv")(near))


class Block(nn.Module):
    """A spatial and a temporal transformer, each with its skip connection; fields as in `STTN`."""

    features: int
    adjacency: Float[np.ndarray, "n n"]
    supports: Float[np.ndarray, "k n n"]
    positions: str
    spatial: str
    temporal: str
    graph: str
    rectified: bool
    slots: int
    transformer: functools.partial
    epsilon: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series, each: None, train: bool) -> tuple[Series, None]:
        del each
        x = at_edge(x)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = lambda adjacency, steps, name: PositionalEmbedding(
            self.features, self.positions, adjacency, steps, self.slots, **types, name=name
        )
        # LibCity's spatial transformer does not know the step.
        inputs = embed(self.adjacency, self.positions != "query", "spatial_positions")(x)
        x = self._joined(inputs.skip, self._spatial(inputs, train), "spatial_norm")
        self.sow("intermediates", "spatial", x)
        inputs = embed(None, True, "temporal_positions")(x)
        if self.temporal == "glu":
            y = TemporalGLU(self.features, **types, name="temporal_glu")(inputs.query)
        else:
            attend = self.transformer("steps", name="temporal_transformer")
            y = attend(inputs.query, inputs.source, train)
        self.sow("intermediates", "temporal", y)
        x = self._joined(inputs.skip, y, "temporal_norm")
        if self.rectified:
            self.sow("intermediates", "rectified", x)
            x = joint_layer_norm(**types, name="norm")(x)
        self.sow("intermediates", "out", x)
        return x, None

    def _spatial(self, inputs, train):
        """Attention over sensors, the fixed graph's convolution, or both, by `spatial`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.spatial != "dynamic":
            graph = GraphConvolution if self.graph == "chebyshev" else GCN
            convolve = graph(self.features, self.supports, **types, name="graph_convolution")
            fixed = convolve(inputs.graph)
            self.sow("intermediates", "graph", fixed)
        if self.spatial == "fixed":
            return nn.relu(fixed)
        attend = self.transformer("nodes", name="spatial_transformer")
        dynamic = attend(inputs.query, inputs.source, train)
        self.sow("intermediates", "dynamic", dynamic)
        if self.spatial == "gate":
            dense = functools.partial(nn.Dense, self.features, **types)
            gate = nn.sigmoid(dense(name="gate_dynamic")(dynamic) + dense(name="gate_fixed")(fixed))
            dynamic = gate * dynamic + (1 - gate) * fixed
            self.sow("intermediates", "gated", dynamic)
        return dynamic + 0.1 * fixed if self.spatial == "sum" else dynamic

    def _joined(self, skip, branch, name):
        if self.rectified:
            return nn.relu(skip + branch)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.LayerNorm(self.epsilon, use_fast_variance=False, **types, name=name)(
            skip + branch
        )


class DirectHead(nn.Module):
    """All steps at once: a map of the steps seen to the steps ahead, then one of the channels."""

    horizon: int
    features: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series, train: bool) -> Float[Array, "b horizon n features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.relu(nn.DenseGeneral(self.horizon, axis=1, **types, name="steps")(x))
        x = einops.rearrange(x, "b n c t -> b t n c")
        return nn.Dense(self.features, **types, name="out")(x)


class OneStepHead(nn.Module):
    """The authors' code: all steps to one, and two maps whose biases each sensor has of its own."""

    features: int
    hidden: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Series, train: bool) -> Float[Array, "b 1 n features"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        nodes, channels = x.shape[-2:]

        def per_sensor(x, features, name):
            y = nn.Dense(features, use_bias=False, **types, name=name)(x)
            shape, init = (nodes, features), nn.initializers.zeros
            return y + self.param(f"{name}_bias", init, shape, self.param_dtype).astype(y.dtype)

        y = nn.DenseGeneral(channels, axis=(1, 3), **types, name="steps")(x)
        y = joint_layer_norm(**types, name="norm")(nn.relu(y + x[:, -1]))
        y = nn.Dropout(self.dropout)(per_sensor(y, self.hidden, "hidden"), deterministic=not train)
        return per_sensor(y, self.features, "out")[:, None]


class STTN(nn.Module):
    """Forecasts the steps after a series on a graph; what comes in and goes out is normalised.

    Attributes:
        adjacency: weights of the road network, which the sensors' table starts from.
        horizon: steps that "direct" predicts; "one_step" predicts one.
        features: channels within the blocks.
        blocks: number of blocks.
        heads: of both attentions.
        embed: channels of the first map; None: `features`.
        hidden: widths between the maps of a feed-forward network: two of them, three maps, in the
            paper; None: two of `features`.
        order: Chebyshev polynomials, where `supports` is None.
        positions: see `PositionalEmbedding`; "none" is the paper's ablation.
        spatial: how attention over sensors and the fixed graph come together: by a "gate", as the
            "sum" dynamic + 0.1 fixed of the authors' code, or one alone, "dynamic" or "fixed".
        temporal: "attention", or "glu": a gated convolution.
        graph: "chebyshev", or "gcn": LibCity's, on the standardised adjacency.
        head: "direct", or "one_step", to be rolled out.
        shared_heads: see `Attention`.
        rectified: the ReLU of skip + branch and a norm of sensors and channels at a block's end
            (the authors' code), not a norm of channels after both.
        dropout: of attention weights and of what both parts of a transformer add. The authors'
            code leaves it on in prediction; this does not.
        head_dropout, head_hidden: of "one_step".
        slots: steps of the table of "query".
        epsilon: of the norms of channels.
        supports: matrices of the fixed graph, instead of those of `adjacency`.
        outputs: features that are forecast; None: as many as come in.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    adjacency: Float[np.ndarray, "n n"]
    horizon: int = 12
    features: int = 64
    blocks: int = 1
    heads: int = 4
    embed: int | None = None
    hidden: tuple[int, ...] | None = None
    order: int = 3
    positions: str = "mixed"
    spatial: str = "gate"
    temporal: str = "attention"
    graph: str = "chebyshev"
    head: str = "direct"
    shared_heads: bool = False
    rectified: bool = False
    dropout: float = 0.0
    head_dropout: float = 0.2
    head_hidden: int = 512
    slots: int = 288
    epsilon: float = 1e-5
    supports: Float[np.ndarray, "k n n"] | None = None
    outputs: int | None = None
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, series: Float[Array, "b t n f"], *, train: bool = False
    ) -> Float[Array, "b horizon n outputs"]:
        """The steps ahead, `horizon` or one of them.

        Raises:
            ValueError: an unknown option, or sizes that do not fit.
        """
        self._check(series)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(self.embed or self.features, **types, name="embedding")(series)
        self.sow("intermediates", "embedded", x)
        # Where the width changes, the first block has other shapes than the rest.
        widened = x.shape[-1] != self.features
        fields = self._block(types)
        if widened:
            x, _ = Block(**fields, name="first")(x, None, train)
        if self.blocks > widened:
            stack = repeat(Block, self.blocks - widened, self.remat)
            x, _ = stack(**fields, name="blocks")(x, None, train)
        out = self.outputs or series.shape[-1]
        if self.head == "direct":
            return DirectHead(self.horizon, out, **types, name="head")(x, train)
        return OneStepHead(out, self.head_hidden, self.head_dropout, **types, name="head")(x, train)

    def _block(self, types):
        hidden = (self.features, self.features) if self.hidden is None else tuple(self.hidden)
        shared = {"epsilon": self.epsilon, **types}
        transformer = functools.partial(
            Transformer, heads=self.heads, hidden=hidden, shared_heads=self.shared_heads,
            dropout=self.dropout, **shared,
        )  # fmt: skip
        same = ("features", "adjacency", "positions", "spatial", "temporal", "graph", "rectified",
                "slots")  # fmt: skip
        fields = {name: getattr(self, name) for name in same}
        return {**fields, "supports": self._supports(), "transformer": transformer, **shared}

    def _supports(self):
        if self.supports is not None:
            return self.supports
        if self.graph == "gcn":
            return standardised(self.adjacency)[None]
        return chebyshev(scaled_laplacian(self.adjacency), self.order)

    def _check(self, series):
        for field, known in OPTIONS.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"{field}: {value!r} is none of {', '.join(known)}")
        nodes = np.shape(self.adjacency)[0]
        if series.ndim != 4 or series.shape[2] != nodes:
            raise ValueError(f"series: {series.shape} instead of (b, t, {nodes}, f)")
        if self.features % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide {self.features} features")
        if self.positions == "query" and series.shape[1] > self.slots:
            raise ValueError(f"slots: {self.slots} for {series.shape[1]} steps")
        if self.positions in ("query", "none") and self.embed not in (None, self.features):
            raise ValueError(f"embed: {self.embed} with {self.features} features and no map")


def weight_penalty(params: dict[str, Any]) -> Float[Array, ""]:
    """Half the squared weights of all maps but the transformers' own, as the authors' code sums."""
    kernels = [
        array
        for path, array in traverse_util.flatten_dict(params).items()
        if path[-1] == "kernel" and not {"spatial_transformer", "temporal_transformer"} & {*path}
    ]
    return sum(0.5 * jnp.sum(jnp.square(kernel)) for kernel in kernels)
