"""Values of a grid at points between its cells, in one, two or three dimensions.

Points are counted in cells: the centre of cell i of an axis is at i, whatever the size of the grid,
and a point's coordinates stand in the order of the grid's axes, such as (t, y, x).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

Mode = Literal["linear", "nearest"]
Padding = Literal["zeros", "border", "reflection"]


def sample(
    values: Float[Array, "b *grid c"],
    points: Float[Array, "b *points dims"],
    *,
    mode: Mode = "linear",
    padding: Padding = "zeros",
    align_corners: bool = False,
) -> Float[Array, "b *points c"]:
    """Interpolates between the 2^dims cells around each point, or takes the nearest one.

    What torch.nn.functional.grid_sample computes, gradients included, but for the coordinates:
    `from_normalized` makes ours of its own. Gradients reach values and points; through "nearest"
    values alone.

    Args:
        values: a grid of one to three axes.
        points: in cells, in the order of the grid's axes.
        mode: "linear" or "nearest" (halves to the even cell).
        padding: what lies outside: "zeros"; "border", the nearest cell of the grid; "reflection",
            the grid turned over again and again.
        align_corners: for "reflection" alone: about the centres of the outermost cells, or else
            about their outer edges.

    Raises:
        ValueError: shapes that do not fit, an unknown mode or padding.
    """
    batch, *shape, channels = _checked(values, points)
    rows = values.reshape(batch, math.prod(shape), channels)

    # What is kept for the gradient are values and points, not what was read of them 2^dims times.
    @jax.checkpoint
    def read(rows: Float[Array, "n c"], points: Float[Array, "*points dims"]):
        dtype = jnp.promote_types(rows.dtype, jnp.float32)
        around = corners(points, shape, mode=mode, padding=padding, align_corners=align_corners)
        terms = (
            weight.astype(dtype)[..., None] * rows.at[cell].get(mode="promise_in_bounds")
            for cell, weight in around
        )
        return sum(terms).astype(rows.dtype)

    return jax.vmap(read)(rows, points)


def corners(
    points: Float[Array, "*points dims"],
    shape: Sequence[int],
    *,
    mode: Mode = "linear",
    padding: Padding = "zeros",
    align_corners: bool = False,
) -> Iterator[tuple[Int[Array, "*points"], Float[Array, "*points"]]]:
    """The cells around each point, one corner after another, and what they weigh.

    Arguments are those of `sample`. A cell's index is that of the flattened grid, and always within
    it: cells outside weigh nothing.
    """
    axes = [
        _neighbours(points[..., axis], size, mode, padding, align_corners)
        for axis, size in enumerate(shape)
    ]
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    for corner in itertools.product(*axes):
        cell = sum(index * stride for (index, _), stride in zip(corner, strides))
        yield cell, math.prod(weight for _, weight in corner)


def from_normalized(
    points: Float[Array, "... dims"], shape: Sequence[int], *, align_corners: bool = False
) -> Float[Array, "... dims"]:
    """Points of torch's grid_sample as ours: (x, y, z) in [-1, 1] to (z, y, x) in cells.

    Args:
        points: the last axis of the grid first.
        shape: the grid's.
        align_corners: whether -1 and 1 are the centres of the outermost cells, or else their outer
            edges.

    Raises:
        ValueError: as many coordinates as the grid has not.
    """
    if points.shape[-1:] != (len(shape),):
        raise ValueError(f"points: {points.shape} instead of (..., {len(shape)})")
    sizes = jnp.asarray(shape, points.dtype)
    points = (points[..., ::-1] + 1) / 2
    return points * (sizes - 1) if align_corners else points * sizes - 0.5


def naive_sample(
    values: Float[Array, "b *grid c"],
    points: Float[Array, "b *points dims"],
    *,
    mode: Mode = "linear",
    padding: Padding = "zeros",
    align_corners: bool = False,
    reach: int = 8,
) -> Float[Array, "b *points c"]:
    """The definition, a sum over all cells: what `sample` is tested against.

    The grid goes on by its padding for `reach` cells on every side, and a cell weighs
    prod max(0, 1 - |its place - point|).
    """
    batch, *shape, channels = _checked(values, points)
    reflection = "reflect" if align_corners else "symmetric"
    how = {"zeros": "constant", "border": "edge", "reflection": reflection}[padding]
    out = jnp.pad(values, [(0, 0), *[(reach, reach)] * len(shape), (0, 0)], how)
    flat = points.reshape(batch, -1, len(shape))
    flat = jnp.round(flat) if mode == "nearest" else flat
    out = jnp.broadcast_to(out[:, None], (batch, flat.shape[1], *out.shape[1:]))
    for axis, size in enumerate(shape):
        away = jnp.abs(jnp.arange(-reach, size + reach) - flat[..., axis, None])
        out = jnp.einsum("bmi,bmi...->bm...", jnp.maximum(0, 1 - away), out)
    return out.reshape(*points.shape[:-1], channels)


def _checked(values, points):
    """The shape of `values`; refuses what does not fit."""
    dims = values.ndim - 2
    if not 1 <= dims <= 3 or 0 in values.shape[1:-1]:
        raise ValueError(f"values: {values.shape} instead of (b, *grid, c), of one to three axes")
    if points.ndim < 2 or points.shape[0] != values.shape[0] or points.shape[-1] != dims:
        raise ValueError(f"points: {points.shape} instead of ({values.shape[0]}, ..., {dims})")
    return values.shape


def _neighbours(
    x: Num[Array, "*points"], size: int, mode: Mode, padding: Padding, align_corners: bool
) -> list[tuple[Int[Array, "*points"], Float[Array, "*points"]]]:
    """Along one axis: the cells next to x, moved into the grid, and what they weigh."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if padding == "reflection":
        x = _reflect(x, size, align_corners)
    # From one cell outside on there is nothing but zeros; far ones would not fit an integer.
    x = jnp.clip(x, -1, size) if padding == "zeros" else jnp.clip(x, 0, size - 1)
    if mode == "linear":
        below = jnp.floor(x)
        places = [(below, below + 1 - x), (below + 1, x - below)]
    elif mode == "nearest":
        places = [(jnp.round(x), jnp.ones_like(x))]
    else:
        raise ValueError(f"mode: {mode!r} is neither 'linear' nor 'nearest'")
    if padding == "zeros":
        places = [(at, jnp.where((at >= 0) & (at < size), weight, 0)) for at, weight in places]
    elif padding not in ("border", "reflection"):
        raise ValueError(f"padding: {padding!r} is none of 'zeros', 'border', 'reflection'")
    return [(jnp.clip(at.astype(jnp.int32), 0, size - 1), weight) for at, weight in places]


def _reflect(x, size, align_corners):
    """x turned over at both ends of the axis until it lies between them."""
    low = 0 if align_corners else -0.5
    span = size - 1 if align_corners else size
    if span == 0:
        return jnp.zeros_like(x)
    return span - jnp.abs(jnp.mod(x - low, 2 * span) - span) + low
