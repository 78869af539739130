"""UniFormer (Li et al. 2022, arXiv 2201.04676): convolution first, attention later.

Four stages of alike blocks, each a position encoding, a relation aggregator (MHRA) and a
feed-forward map. In the shallow stages the affinity of two tokens depends on their offset within a
small tube alone, which is a depthwise convolution; in the deep ones it is that of attention over
all of space and time. `UniFormerLight` are the small models of the published code.
"""

import functools
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.attention import SelfAttention
from stjax.layers.clips import TubeEmbed
from stjax.layers.depthwise import DepthwiseConv
from stjax.layers.feed_forward import FeedForward
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.layers.stochastic_depth import DropPath
from stjax.ops.activations import gelu
from stjax.ops.attention import attention
from stjax.ops.sharding import at_edge

Clip = Float[Array, "b t h w c"]
Tokens = Float[Array, "b n c"]
Rate = Float[Array, ""] | None


class _Block(nn.Module):
    """What all blocks share: x + DPE(x), then two residual branches, each after a norm.

    The local and the global one take frames (b, h, w, c) as well.

    Attributes:
        head_dim: of the attentions.
        mlp_ratio: hidden units of the feed-forward map over the width.
        tube: side of the local aggregator's window, in time and space.
        dpe: whether there is a dynamic position embedding.
        layer_scale: initial factor of the residual branches, learned by channel; 0 for none.
        epsilon: of the LayerNorms.
    """

    head_dim: int = 64
    mlp_ratio: float = 4
    tube: int = 5
    dpe: bool = True
    layer_scale: float = 0.0
    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def _dtypes(self):
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _position(self, x: Clip) -> Clip:
        """Dynamic position embedding: a depthwise convolution, added."""
        x = at_edge(x)
        return x + _depthwise(3, "embed", name="dpe", **self._dtypes)(x) if self.dpe else x

    def _norm(self, name):
        return nn.LayerNorm(self.epsilon, name=name, **self._dtypes)

    def _scaled(self, name, x):
        """A residual branch times its learned factor."""
        if not self.layer_scale:
            return x
        init = nn.initializers.constant(self.layer_scale)
        return x * self.param(name, init, x.shape[-1:], self.param_dtype).astype(x.dtype)

    def _attention(self, channels, **options):
        heads = channels // self.head_dim
        return SelfAttention(heads, self.head_dim, qkv_bias=True, **options, **self._dtypes)

    def _feed_forward(self, channels):
        return FeedForward(int(channels * self.mlp_ratio), name="feed_forward", **self._dtypes)


class LocalBlock(_Block):
    """Local MHRA, one head a channel: V and U are maps of each token, A a depthwise kernel."""

    @nn.compact
    def __call__(self, x: Clip, rate: Rate, train: bool) -> tuple[Clip, None]:
        x, channels = self._position(x), x.shape[-1]
        hidden = int(channels * self.mlp_ratio)
        dense = functools.partial(_pointwise, **self._dtypes)
        norm = functools.partial(_batch_norm, train=train, **self._dtypes)

        y = norm(name="aggregator_norm")(x)
        y = dense(channels, channels, "embed", "mlp", name="value")(y)
        y = _depthwise(self.tube, "mlp", name="affinity", **self._dtypes)(y)
        y = dense(channels, channels, "mlp", "embed", name="out")(y)
        x = x + DropPath()(self._scaled("aggregator_scale", y), rate, train=train)

        y = norm(name="feed_forward_norm")(x)
        y = dense(channels, hidden, "embed", "mlp", name="feed_forward_in")(y)
        y = dense(hidden, channels, "mlp", "embed", name="feed_forward_out")(gelu(y))
        x = x + DropPath()(self._scaled("feed_forward_scale", y), rate, train=train)
        self.sow("intermediates", "tokens", x)
        return x, None


class GlobalBlock(_Block):
    """Global MHRA: attention over all tokens of space and time together."""

    @nn.compact
    def __call__(self, x: Clip, rate: Rate, train: bool) -> tuple[Clip, None]:
        x, (batch, *grid, channels) = self._position(x), x.shape
        tokens = x.reshape(batch, -1, channels)
        y = self._attention(channels, name="attention")(self._norm("aggregator_norm")(tokens))
        tokens = tokens + DropPath()(self._scaled("aggregator_scale", y), rate, train=train)
        y = self._feed_forward(channels)(self._norm("feed_forward_norm")(tokens))
        tokens = tokens + DropPath()(self._scaled("feed_forward_scale", y), rate, train=train)
        x = tokens.reshape(batch, *grid, channels)
        self.sow("intermediates", "tokens", x)
        return x, None


class DividedBlock(_Block):
    """The ablation: attention over time at each place, then over space in each frame.

    As published, the second one's residual is the block's input: what attention over time adds
    is seen by attention over space, and is not passed by it.
    """

    @nn.compact
    def __call__(self, x: Clip, rate: Rate, train: bool) -> tuple[Clip, None]:
        x, (batch, time, height, width, channels) = self._position(x), x.shape
        drop = functools.partial(DropPath(), rate=rate, train=train)
        temporal = self._attention(
            channels,
            kernel_init=nn.initializers.zeros,
            out_init=nn.initializers.ones,
            name="temporal_attention",
        )
        y = einops.rearrange(x, "b t h w c -> (b h w) t c")
        y = y + drop(temporal(self._norm("temporal_norm")(y)))
        y = einops.rearrange(y, "(b n) t c -> (b t) n c", b=batch)
        y = self._attention(channels, name="attention")(self._norm("aggregator_norm")(y))
        frames = x.reshape(batch * time, height * width, channels)
        tokens = (frames + drop(self._scaled("aggregator_scale", y))).reshape(batch, -1, channels)
        y = self._feed_forward(channels)(self._norm("feed_forward_norm")(tokens))
        tokens = tokens + drop(self._scaled("feed_forward_scale", y))
        x = tokens.reshape(x.shape)
        self.sow("intermediates", "tokens", x)
        return x, None


BLOCKS = {"L": LocalBlock, "G": GlobalBlock, "D": DividedBlock}


class UniFormer(nn.Module):
    """Classifies clips.

    Attributes:
        classes: how many.
        pattern: a letter a stage: "L" local, "G" global, "D" divided attention.
        depths, dims: blocks and width of each stage.
        head_dim, mlp_ratio, tube, dpe, layer_scale: of the blocks.
        patch: side of the first stage's patches; the other stages halve height and width.
        stride: of the first stage in time; 2 halves the frames.
        overlap: whether the later stages' embeddings see three frames as well.
        drop_path: rate of stochastic depth at the last block, rising linearly from 0.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    classes: int = 400
    pattern: str = "LLGG"
    depths: tuple[int, ...] = (3, 4, 8, 3)
    dims: tuple[int, ...] = (64, 128, 320, 512)
    head_dim: int = 64
    mlp_ratio: float = 4
    tube: int = 5
    dpe: bool = True
    layer_scale: float = 0.0
    patch: int = 4
    stride: int = 2
    overlap: bool = False
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Clip, *, train: bool = False) -> Float[Array, "b classes"]:
        """Logits.

        Raises:
            ValueError: stages that do not fit each other, or a height or width that the patches
                do not divide.
        """
        _check_stages(self.pattern, self.depths, self.dims, self.head_dim)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, rates = video, _rates(self.drop_path, self.depths)
        for k, (letter, depth, dim) in enumerate(zip(self.pattern, self.depths, self.dims)):
            frames = 3 if k == 0 or self.overlap else 1
            patch, stride = (2, 1) if k else (self.patch, self.stride)
            x = TubeEmbed(dim, patch, frames, stride, name=f"embed_{k}", **dtypes)(x)
            self.sow("intermediates", f"embedded_{k}", x)
            stage = repeat(BLOCKS[letter], depth, self.remat)
            x, _ = stage(
                head_dim=self.head_dim,
                mlp_ratio=self.mlp_ratio,
                tube=self.tube,
                dpe=self.dpe,
                layer_scale=self.layer_scale,
                name=f"stage_{k}",
                **dtypes,
            )(x, rates[k], train)
        return _classify(x, self.classes, train, **dtypes)


class PrunedBlock(_Block):
    """A global block in which the tokens that the class token looks at least are not aggregated.

    They stand in for each other: their mean, weighted by score, takes part, and what is added to
    it is added to all of them. (Evo-ViT, Xu et al. 2021, arXiv 2108.01390, as the published
    code has it.)

    Attributes:
        keep: share of the tokens that take part; 1 for all.
        trade_off: weight of this block's class attention in the running score.
    """

    keep: float = 1.0
    trade_off: float = 1.0

    @nn.compact
    def __call__(
        self,
        cls: Float[Array, "b 1 c"],
        x: Clip,
        score: Float[Array, "b n"] | None,
        rate: Rate,
        train: bool,
    ) -> tuple[Float[Array, "b 1 c"], Clip, Float[Array, "b n"]]:
        """The class token, the clip, and the running score; a score of None is yet to begin."""
        x, shape = self._position(x), x.shape
        tokens = einops.rearrange(x, "b t h w c -> b (t h w) c")
        if self.keep == 1:
            tokens, _, seen = self._aggregate(jnp.concatenate([cls, tokens], 1), rate, train)
            score = seen if score is None else self._update(score, seen)
            cls, tokens = tokens[:, :1], tokens[:, 1:]
            self.sow("intermediates", "tokens", tokens.reshape(shape))
            return cls, tokens.reshape(shape), score

        kept = int(tokens.shape[1] * self.keep)
        order = jnp.argsort(-score, axis=1)
        pick = lambda values, places: jnp.take_along_axis(
            values, places[..., None] if values.ndim == 3 else places, axis=1
        )
        tokens, score = pick(tokens, order), pick(score, order)
        dropped, weight = tokens[:, kept:], score[:, kept:]
        weight = weight / weight.sum(1, keepdims=True)
        representative = jnp.einsum("bn,bnc->bc", weight, dropped)[:, None]
        taking_part = jnp.concatenate([cls, tokens[:, :kept], representative], 1)
        taking_part, added, seen = self._aggregate(taking_part, rate, train)
        score = jnp.concatenate([self._update(score[:, :kept], seen[:, :-1]), score[:, kept:]], 1)
        tokens = jnp.concatenate([taking_part[:, 1:-1], dropped + added[:, -1:]], 1)
        back = jnp.argsort(order, axis=1)
        x = pick(tokens, back).reshape(shape)
        self.sow("intermediates", "tokens", x)
        return taking_part[:, :1], x, pick(score, back)

    def _update(self, score, seen):
        return (1 - self.trade_off) * score + self.trade_off * seen

    def _aggregate(self, tokens, rate, train):
        """Attention and feed-forward: the tokens, what was added, what the class token sees."""
        drop, channels = functools.partial(DropPath(), rate=rate, train=train), tokens.shape[-1]
        y, seen = ClassAttention(
            channels // self.head_dim, self.head_dim, name="attention", **self._dtypes
        )(self._norm("aggregator_norm")(tokens))
        y = self._scaled("aggregator_scale", y)
        tokens, added = tokens + drop(y), y
        y = self._feed_forward(channels)(self._norm("feed_forward_norm")(tokens))
        y = self._scaled("feed_forward_scale", y)
        return tokens + drop(y), added + y, seen


class ClassAttention(nn.Module):
    """Self-attention that also tells how much the first token sees of the others."""

    heads: int
    head_dim: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> tuple[Tokens, Float[Array, "b n-1"]]:
        init, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        qkv = nn.DenseGeneral(
            (3, self.heads, self.head_dim),
            kernel_init=named(init, "embed", None, "heads", None),
            bias_init=named(zeros, None, "heads", None),
            name="qkv",
            **dtypes,
        )(x)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        logits = jnp.einsum("bhd,bmhd->bhm", q[:, 0], k) * self.head_dim**-0.5
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            kernel_init=named(init, "heads", None, "embed"),
            name="out",
            **dtypes,
        )(attention(q, k, v))
        return out, weights.mean(1)[:, 1:]


class UniFormerLight(nn.Module):
    """The light models: a stem that overlaps, a class token, and tokens pruned by its attention.

    In training the class token is classified too.

    Attributes:
        keep, trade_off: of every block of the last two stages, see `PrunedBlock`; the first block
            keeps all.
        classes, depths, dims, head_dim, mlp_ratio, layer_scale, drop_path: as in `UniFormer`.
    """

    classes: int = 400
    depths: tuple[int, ...] = (2, 5, 8, 2)
    dims: tuple[int, ...] = (56, 112, 224, 448)
    head_dim: int = 28
    mlp_ratio: float = 3
    layer_scale: float = 0.0
    keep: tuple[tuple[float, ...], ...] = ((1, *(0.5,) * 7), (0.5,) * 2)
    trade_off: tuple[tuple[float, ...], ...] = ((1, *(0.5,) * 7), (0.5,) * 2)
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, video: Clip, *, train: bool = False
    ) -> Float[Array, "b classes"] | tuple[Float[Array, "b classes"], Float[Array, "b classes"]]:
        """Logits; in training those of the pooled tokens and those of the class token.

        Raises:
            ValueError: as `UniFormer`; shares of tokens that are not one for each block.
        """
        _check_stages("LLGG", self.depths, self.dims, self.head_dim)
        for name, shares in (("keep", self.keep), ("trade_off", self.trade_off)):
            if tuple(map(len, shares)) != tuple(self.depths[2:]) or shares[0][0] != 1:
                raise ValueError(
                    f"{name}: {shares} instead of a number for each of {self.depths[2:]} blocks, "
                    "the first of them 1"
                )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = {"head_dim": self.head_dim, "mlp_ratio": self.mlp_ratio,
                 "layer_scale": self.layer_scale, **dtypes}
        rates = _rates(self.drop_path, self.depths)
        x = OverlappingStem(self.dims[0], name="embed_0", **dtypes)(video, train=train)
        for k in range(2):
            if k:
                x = TubeEmbed(self.dims[k], 2, name=f"embed_{k}", **dtypes)(x)
            self.sow("intermediates", f"embedded_{k}", x)
            stage = repeat(LocalBlock, self.depths[k], self.remat)
            x, _ = stage(name=f"stage_{k}", **block)(x, rates[k], train)

        shape = (1, 1, self.dims[2])
        cls = self.param("class_token", nn.initializers.zeros, shape, self.param_dtype)
        cls, score = jnp.broadcast_to(cls, (len(x), *shape[1:])).astype(x.dtype), None
        pruned = nn.remat(PrunedBlock, static_argnums=(5,)) if self.remat else PrunedBlock
        for k, (keep, trade_off) in enumerate(zip(self.keep, self.trade_off), start=2):
            if score is not None:
                score = _pool(score, x.shape)
                self.sow("intermediates", "score", score)
                cls = _dense(self.dims[k], None, name="class_up", **dtypes)(cls)
            x = TubeEmbed(self.dims[k], 2, name=f"embed_{k}", **dtypes)(x)
            for i, shares in enumerate(zip(keep, trade_off)):
                rate = None if rates[k] is None else rates[k][i]
                run = pruned(**block, keep=shares[0], trade_off=shares[1], name=f"stage_{k}_{i}")
                cls, x, score = run(cls, x, score, rate, train)
            self.sow("intermediates", "class_tokens", cls)
        logits = _classify(x, self.classes, train, **dtypes)
        # Their parameters are made in any case: what is initialised can be trained.
        cls = nn.LayerNorm(1e-5, name="class_norm", **dtypes)(cls[:, 0])
        of_class = _dense(self.classes, "vocab", name="class_head", **dtypes)(cls)
        return (logits, of_class) if train else logits


class OverlappingStem(nn.Module):
    """Two convolutions of 3 x 3 x 3, each halving height and width, the second one time as well."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Clip, *, train: bool = False) -> Clip:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = video
        for k, (features, stride) in enumerate(((self.features // 2, 1), (self.features, 2))):
            x = nn.Conv(
                features,
                (3, 3, 3),
                (stride, 2, 2),
                padding=1,
                kernel_init=named(torch_default, None, None, None, None, "embed"),
                bias_init=named(torch_default_bias(27 * x.shape[-1]), "embed"),
                name=f"conv_{k}",
                **dtypes,
            )(gelu(x) if k else x)
            x = _batch_norm(train=train, name=f"norm_{k}", **dtypes)(x)
        return x


def _check_stages(pattern, depths, dims, head_dim):
    if not len(pattern) == len(depths) == len(dims) or not set(pattern) <= set(BLOCKS):
        raise ValueError(
            f"pattern: {pattern!r} with depths {depths} and dims {dims}; one of each for every "
            f"stage, letters among {', '.join(BLOCKS)}"
        )
    wrong = [dim for letter, dim in zip(pattern, dims) if letter != "L" and dim % head_dim]
    if wrong:
        raise ValueError(f"head_dim: {head_dim} does not divide the widths {wrong}")


def _rates(drop_path, depths):
    """Stochastic depth's rate of every block, by stage; None where nothing is dropped."""
    if not drop_path:
        return [None] * len(depths)
    rates = np.linspace(0, drop_path, sum(depths))
    return np.split(rates, np.cumsum(depths)[:-1])


def _classify(x, classes, train, **dtypes):
    x = _batch_norm(train=train, name="norm", **dtypes)(x).mean((1, 2, 3))
    return _dense(classes, "vocab", name="head", **dtypes)(x)


def _pool(score, shape):
    """The running score of the next stage's grid: means of 2 x 2, of the same sum."""
    _, time, height, width, _ = shape
    grid = score.reshape(-1, time, height // 2, 2, width // 2, 2).mean((3, 5))
    pooled = grid.reshape(len(score), -1)
    return pooled * (score.sum(1, keepdims=True) / pooled.sum(1, keepdims=True))


def _dense(features, after, **options):
    init = nn.initializers.normal(0.02)
    return nn.Dense(features, kernel_init=named(init, "embed", after), **options)


def _pointwise(inputs, outputs, before, after, **options):
    """A convolution of 1 x 1 x 1, initialised as PyTorch does."""
    return nn.Dense(
        outputs,
        kernel_init=named(torch_default, before, after),
        bias_init=named(torch_default_bias(inputs), after),
        **options,
    )


def _depthwise(side, channels, **options):
    init = torch_default_bias(side**3)
    return DepthwiseConv(side, kernel_init=init, bias_init=init, channels=channels, **options)


def _batch_norm(train, **options):
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **options)
