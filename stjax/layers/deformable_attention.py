"""Attention to a few points of a grid, at places that the network chooses."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.activations import gelu
from stjax.ops.attention import attention
from stjax.ops.deformable import deformable_attention
from stjax.ops.rotary import grid_positions

_small = nn.initializers.truncated_normal(0.02)


class DeformableAttention(nn.Module):
    """Every query reads a few points around its own place, on every level of a pyramid.

    Where, and with what weights, are linear functions of the query alone (Zhu et al. 2021,
    Deformable DETR, arXiv 2010.04159, section 4.1; here in one to three dimensions). At the start
    each head looks one way, the k-th point k cells off, all with the same weight.

    Attributes:
        heads: number of heads; they divide the width.
        points: how many each head reads on each level.
    """

    heads: int
    points: int = 4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b n c"],
        places: Float[Array, "b n dims"],
        values: Sequence[Float[Array, "b *grid c"]],
    ) -> Float[Array, "b n c"]:
        """
        Args:
            queries: with the code of their position added, where there is one.
            places: of the queries, in [0, 1] of the whole grid along each of its axes.
            values: the levels, grids of any size over the same extent.

        Raises:
            ValueError: a width that the heads do not divide.
        """
        width, dims = queries.shape[-1], places.shape[-1]
        if width % self.heads:
            raise ValueError(f"heads: {self.heads} do not divide a width of {width}")
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, param_dtype=self.param_dtype)
        zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()
        each = (self.heads, len(values), self.points)
        offsets = dense(
            (*each, dims),
            kernel_init=named(zeros, "embed", "heads", None, None, None),
            bias_init=named(_outwards(*each, dims), "heads", None, None, None),
            name="offsets",
        )(queries)
        logits = dense(
            each,
            kernel_init=named(zeros, "embed", "heads", None, None),
            bias_init=named(zeros, "heads", None, None),
            name="weights",
        )(queries)
        weights = jax.nn.softmax(logits, axis=(-2, -1))
        to_heads = dense(
            (self.heads, width // self.heads),
            kernel_init=named(xavier, "embed", "heads", None),
            bias_init=named(zeros, "heads", None),
            name="value",
        )
        sizes = jnp.asarray([grid.shape[1:-1] for grid in values])
        centres = places[:, :, None, :] * sizes - 0.5
        # Offsets stand in the order of published weights, the last axis of the grid first.
        points = centres[:, :, None, :, None] + offsets[..., ::-1]
        read = deformable_attention([to_heads(grid) for grid in values], points, weights)
        from_heads = named(xavier, "heads", None, "embed")
        return dense(width, axis=(-2, -1), kernel_init=from_heads, name="out")(read)


class SearchedAttention(nn.Module):
    """A clip's tokens attend to few of its places, found by a small network on the queries.

    The network gives every group of channels its own grid of points, `stride` cells apart and moved
    by up to one stride; what is read there makes keys and values for all queries (Xia et al. 2022,
    Vision Transformer with Deformable Attention, arXiv 2201.00520, section 3.2, in three
    dimensions, and as the 3-D token search of Kim et al. 2023, arXiv 2212.05638, was reconstructed:
    points are kept within the clip in time, and further tokens are queries and keys as well).

    Attributes:
        heads: number of heads; they divide the width.
        groups: of channels, each with points of its own; they divide the width.
        stride: cells from point to point, along time, rows and columns.
        kernel: that of the network's depthwise convolution.
        search: whether keys are searched for, or else all places are keys.
    """

    heads: int
    groups: int = 8
    stride: tuple[int, int, int] = (2, 2, 2)
    kernel: tuple[int, int, int] = (3, 5, 5)
    search: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t h w c"], tokens: Float[Array, "b n c"]
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b n c"]]:
        """
        Raises:
            ValueError: a width that the heads or the groups do not divide.
        """
        shape, width = video.shape, video.shape[-1]
        for name in ("heads", "groups"):
            if width % getattr(self, name):
                raise ValueError(f"{name}: {getattr(self, name)} do not divide a width of {width}")
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, param_dtype=self.param_dtype)
        to_heads = functools.partial(
            dense,
            (self.heads, width // self.heads),
            kernel_init=named(_small, "embed", "heads", None),
            bias_init=named(nn.initializers.zeros, "heads", None),
        )
        flat = einops.rearrange(video, "b t h w c -> b (t h w) c")
        q = to_heads(name="q")(jnp.concatenate([flat, tokens], 1))
        keys = flat
        if self.search:
            of_video = q[:, : flat.shape[1]].reshape(shape)
            options = {"dtype": self.dtype, "param_dtype": self.param_dtype, "name": "offsets"}
            points = _Points(self.groups, self.stride, self.kernel, **options)(of_video)
            self.sow("intermediates", "points", points)
            values = video.reshape(*shape[:-1], self.groups, -1)
            once = jnp.ones((*points.shape[:3], 1, 1), points.dtype)
            keys = deformable_attention([values], points[:, :, :, None, None], once)
            keys = keys.reshape(*keys.shape[:2], width)
            self.sow("intermediates", "sampled", keys)
        keys = jnp.concatenate([keys, tokens], 1)
        out = attention(q, to_heads(name="k")(keys), to_heads(name="v")(keys))
        from_heads = named(_small, "heads", None, "embed")
        out = dense(width, axis=(-2, -1), kernel_init=from_heads, name="out")(out)
        return out[:, : flat.shape[1]].reshape(shape), out[:, flat.shape[1] :]


class _Points(nn.Module):
    """The points of every group, in cells: (b, m, groups, 3); at the start a regular grid."""

    groups: int
    stride: tuple[int, int, int]
    kernel: tuple[int, int, int]
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, queries: Float[Array, "b t h w c"]) -> Float[Array, "b m groups 3"]:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = einops.rearrange(queries, "b t h w (g c) -> (b g) t h w c", g=self.groups)
        x = nn.Conv(
            x.shape[-1],
            self.kernel,
            self.stride,
            padding=[((size - 1) // 2,) * 2 for size in self.kernel],
            feature_group_count=x.shape[-1],
            kernel_init=_small,
            name="conv",
            **options,
        )(x)
        x = gelu(nn.LayerNorm(1e-6, name="norm", **options)(x))
        x = nn.Dense(3, use_bias=False, kernel_init=nn.initializers.zeros, name="out", **options)(x)
        lattice = grid_positions(x.shape[1:4])
        moved = einops.rearrange(jnp.tanh(x), "(b g) t h w a -> b (t h w) g a", g=self.groups)
        moved = moved.astype(jnp.promote_types(moved.dtype, jnp.float32))
        points = (lattice[:, None] + 0.5 + moved) * jnp.asarray(self.stride) - 0.5
        return points.at[..., 0].set(jnp.clip(points[..., 0], 0, queries.shape[1] - 1))


def _outwards(heads, levels, points, dims):
    """Offsets at the start, heads by levels by points by dims: head by head another direction.

    Heads go round in the plane of the first two axes; along a third the first half of them goes up
    and the others down.
    """
    around = heads if dims < 3 else max(heads // 2, 1)
    angles = 2 * math.pi * (np.arange(heads) % around) / around
    third = np.where(np.arange(heads) < around, 1.0, -1.0)
    directions = np.stack([np.cos(angles), np.sin(angles), third], -1)[:, None, None, :dims]
    directions = directions / np.abs(directions).max(-1, keepdims=True)
    steps = np.arange(1, points + 1)[:, None]
    offsets = np.broadcast_to(directions * steps, (heads, levels, points, dims))
    return lambda key, shape, dtype: jnp.asarray(offsets, dtype).reshape(shape)
