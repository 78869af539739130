"""Maps as sequences in four directions, and back.

Liu et al., VMamba: Visual State Space Model, arXiv 2401.10166, section 4.2.
"""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


def cross_scan(x: Float[Array, "b h w c"]) -> Float[Array, "b l 4 c"]:
    """The l = h w pixels of a map by rows, by columns, and both from the last to the first."""
    rows = rearrange(x, "b h w c -> b (h w) c")
    columns = rearrange(x, "b h w c -> b (w h) c")
    return jnp.stack([rows, columns, rows[:, ::-1], columns[:, ::-1]], axis=2)


def cross_merge(
    y: Float[Array, "b l 4 c"], height: int, width: int
) -> Float[Array, "b height width c"]:
    """The sum over the four directions of `cross_scan`, every pixel back at its place.

    Raises:
        ValueError: sequences that are not four, or not of height times width pixels.
    """
    if y.ndim != 4 or y.shape[1:3] != (height * width, 4):
        raise ValueError(f"y: {y.shape} instead of (b, {height * width}, 4, c)")
    rows = y[:, :, 0] + y[:, ::-1, 2]
    columns = y[:, :, 1] + y[:, ::-1, 3]
    rows = rearrange(rows, "b (h w) c -> b h w c", h=height)
    return rows + rearrange(columns, "b (w h) c -> b h w c", h=height)
