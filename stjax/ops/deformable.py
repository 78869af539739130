"""Deformable attention: every query looks at a few points, wherever it wants them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.ops.sample import corners, naive_sample


def deformable_attention(
    values: Sequence[Float[Array, "b *grid h d"]],
    points: Float[Array, "b n h levels p dims"],
    weights: Float[Array, "b n h levels p"],
) -> Float[Array, "b n h d"]:
    """The weighted sum of what each head reads at its p points of every level.

    out[b, n, h] = sum over levels l and points i of weights[b, n, h, l, i] times values[l][b, ., h]
    at points[b, n, h, l, i], interpolated linearly, and zero outside the grid (Zhu et al. 2021,
    Deformable DETR, arXiv 2010.04159, equation 3; here in two or three dimensions, or in one).

    Args:
        values: grids of any size, one for each level.
        points: in cells of their level, in the order of its axes: cell i's centre is at i.
        weights: in the paper a softmax over levels and points together.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(values, points, weights)
    attend = jax.vmap(_attend)  # over b, so that what is cut along it stays cut
    per_level = (
        attend(grid, points[..., k, :, :], weights[..., k, :]) for k, grid in enumerate(values)
    )
    return sum(per_level).astype(values[0].dtype)


def naive_deformable_attention(
    values: Sequence[Float[Array, "b *grid h d"]],
    points: Float[Array, "b n h levels p dims"],
    weights: Float[Array, "b n h levels p"],
) -> Float[Array, "b n h d"]:
    """The definition, point by point: what `deformable_attention` is tested against."""
    heads = jax.vmap(naive_sample, (-2, 2), 2)
    return sum(
        weights[..., k, i, None] * heads(grid, points[..., k, i, :])
        for k, grid in enumerate(values)
        for i in range(points.shape[-2])
    )


# What is kept for the gradient are the arguments, not what was read of them p 2^dims times.
@jax.checkpoint
def _attend(values, points, weights):
    """One level of one sample, in float32 at least: (*grid, h, d), (n, h, p, dims), (n, h, p)."""
    *shape, heads, width = values.shape
    dtype = jnp.promote_types(values.dtype, jnp.float32)
    rows = values.reshape(-1, width)  # head by head within a cell
    head = jnp.arange(heads)[:, None]
    out = 0.0
    for cell, share in corners(points, shape):
        read = rows.at[cell * heads + head].get(mode="promise_in_bounds")
        out += jnp.einsum("nhpd,nhp->nhd", read.astype(dtype), (share * weights).astype(dtype))
    return out


def _check(values, points, weights):
    if points.ndim != 6:
        raise ValueError(f"points: {points.shape} instead of (b, n, h, levels, p, dims)")
    batch, _, heads, levels, _, dims = points.shape
    if weights.shape != points.shape[:-1]:
        raise ValueError(f"weights: {weights.shape} instead of {points.shape[:-1]}")
    if len(values) != levels or not levels:
        raise ValueError(f"values: {len(values)} grids for {levels} levels")
    for grid in values:
        ends = (grid.shape[0], *grid.shape[-2:])
        if grid.ndim != dims + 3 or ends != (batch, heads, values[0].shape[-1]) or not grid.size:
            raise ValueError(
                f"values: {grid.shape} instead of ({batch}, {dims} axes, {heads}, "
                f"{values[0].shape[-1]})"
            )
