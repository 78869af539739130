"""Pinhole cameras: rays through pixels, and where points lie.

Axes are OpenCV's: x right, y down, z forward. A pose is the matrix (4, 4) from the camera's space
to the world's. Intrinsics (3, 3) count in pixels; the centre of pixel (row i, column j) is at
(j + 0.5, i + 0.5).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Points = Float[Array, "*n 3"]
Rays = Float[Array, "*n height width 3"]


class Cameras(NamedTuple):
    """When, from where and how frames were taken.

    Attributes:
        intrinsics: in pixels.
        poses: camera to world, in metres.
        times: in seconds.
    """

    intrinsics: Float[Array, "*n 3 3"]
    poses: Float[Array, "*n 4 4"]
    times: Float[Array, "*n"]


def rays(
    intrinsics: Float[Array, "*n 3 3"],
    poses: Float[Array, "*n 4 4"],
    size: tuple[int, int],
    centre: float = 0.5,
) -> tuple[Rays, Rays]:
    """Where the rays through the pixels start, and their directions: in the world's space.

    A direction is as long as makes it 1 along the camera's axis, so that `origin + depth direction`
    is the point of a depth.

    Args:
        size: height and width, in pixels.
        centre: of a pixel, from its upper left corner.
    """
    height, width = size
    dtype = jnp.result_type(intrinsics, poses)
    y, x = jnp.meshgrid(jnp.arange(height) + centre, jnp.arange(width) + centre, indexing="ij")
    entry = lambda i, j: intrinsics[..., i, j, None, None]
    x = (x.astype(dtype) - entry(0, 2)) / entry(0, 0)
    y = (y.astype(dtype) - entry(1, 2)) / entry(1, 1)
    in_camera = jnp.stack([x, y, jnp.ones_like(x)], -1)
    directions = jnp.einsum("...ij,...hwj->...hwi", poses[..., :3, :3], in_camera)
    origins = jnp.broadcast_to(poses[..., None, None, :3, 3], directions.shape)
    return origins, directions


def pluecker(origins: Points, directions: Points) -> Float[Array, "*n 6"]:
    """Pluecker coordinates of rays: moment and unit direction, (o x d, d).

    They are the same for all points of a ray. (Sitzmann et al. 2021, arXiv 2106.02634, section 3.)
    """
    length = jnp.linalg.norm(directions, axis=-1, keepdims=True)
    unit = directions / (length + 1e-8)
    return jnp.concatenate([jnp.cross(origins, unit), unit], -1)


def coarser(intrinsics: Float[Array, "*n 3 3"], factor: int) -> Float[Array, "*n 3 3"]:
    """Intrinsics in pixels that are `factor` times as large."""
    return intrinsics / jnp.asarray([[factor], [factor], [1]], intrinsics.dtype)


def to_camera(
    world_to_camera: Float[Array, "*n 4 4"], points: Float[Array, "*n points 3"]
) -> Float[Array, "*n points 3"]:
    """Points of the world in the camera's space."""
    turned = jnp.einsum("...ij,...pj->...pi", world_to_camera[..., :3, :3], points)
    return turned + world_to_camera[..., None, :3, 3]
