"""Gaussian splatting: pictures of 3-D Gaussians, differentiable, in static shapes.

    splatted = rasterise(gaussians, world_to_camera, intrinsics, (160, 240))
    splatted.features, splatted.depth, splatted.alpha

A Gaussian is projected to an ellipse (EWA splatting; Zwicker et al. 2001; Kerbl et al. 2023, arXiv
2308.04079, section 4), ellipses are sorted by depth and composited from front to back. Conventions
are those of gsplat (Ye et al. 2024, arXiv 2409.06765), nerfstudio-project/gsplat@2b0de894.

A picture is cut in tiles, and each composites the nearest `capacity` Gaussians that touch it. What
lies between is kept for no more than `pairs` pairs of pixel and Gaussian at a time, in the backward
pass too, which computes it again. Tiles lose nothing but what exceeds their capacity: a Gaussian
touches as far as its opacity stays above what is composited at all.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from stjax.ops.cameras import to_camera

# Opacities below the least are not composited, those above the greatest are lowered to it; a pixel
# is finished before the Gaussian that would let no more than so much light through.
LEAST_ALPHA, GREATEST_ALPHA, LEAST_LIGHT = 1 / 255, 0.999, 1e-4
# Added to the variances of an ellipse, in square pixels: none is smaller than a pixel.
BLUR = 0.3
_BEYOND = 1.3  # the local linear map is that of a point at most so many times the image's edge away

Size = tuple[int, int]


class Gaussians(NamedTuple):
    """Gaussians of one scene.

    Attributes:
        means: centres, (n, 3), or (views, n, 3) where they lie elsewhere for every view.
        quaternions: how the axes are turned, (n, 4), real part first; of any length but zero.
        scales: standard deviations along the axes, (n, 3).
        opacities: at the centre, in [0, 1], (n,).
        features: colours or anything else that is composited, (n, c).
    """

    means: Float[Array, "*views n 3"]
    quaternions: Float[Array, "n 4"]
    scales: Float[Array, "n 3"]
    opacities: Float[Array, "n"]
    features: Float[Array, "n c"]


class Splatted(NamedTuple):
    """What each view sees.

    Attributes:
        features: sums of weighted features, on black.
        depth: mean depth along the camera's axis, by the same weights; 0 where there is nothing.
        alpha: sum of the weights.
        left_out: how many Gaussians a view's tiles left out, those of all tiles together.
    """

    features: Float[Array, "views height width c"]
    depth: Float[Array, "views height width"]
    alpha: Float[Array, "views height width"]
    left_out: Int[Array, "views"]


class Ellipses(NamedTuple):
    """Gaussians projected to one view.

    Attributes:
        centres: (x, y) in pixels.
        conics: (a, b, c) of the inverse covariance [[a, b], [b, c]].
        variances: of x and of y, in square pixels, blur included.
    """

    centres: Float[Array, "n 2"]
    conics: Float[Array, "n 3"]
    variances: Float[Array, "n 2"]


def rasterise(
    gaussians: Gaussians,
    world_to_camera: Float[Array, "views 4 4"],
    intrinsics: Float[Array, "views 3 3"],
    size: Size,
    *,
    near: float = 0.2,
    far: float = 400.0,
    tile: int = 16,
    capacity: int = 4096,
    pairs: int = 2**24,
) -> Splatted:
    """Pictures of one scene from several views; `jax.vmap` it over scenes.

    Args:
        size: height and width of the pictures, in pixels.
        near, far: Gaussians are seen whose centres' depth lies between.
        tile: height and width of the tiles.
        capacity: Gaussians of a tile, the nearest first; more than that are left out, and counted.
        pairs: how many pairs of a pixel and a Gaussian are worked on at a time: memory against
            launches of kernels. A tile's are worked on together at least.

    Raises:
        ValueError: a shape that does not fit.
    """
    gaussians, world_to_camera, intrinsics = _checked(gaussians, world_to_camera, intrinsics)
    capacity = min(capacity, len(gaussians.opacities))
    corners = _corners(size, tile)
    tiles_at_once = max(pairs // (tile**2 * capacity), 1)
    composite = functools.partial(_composite, tile=tile)

    def render(means, world_to_camera, intrinsics):
        rows, reach, seen = _sorted_rows(
            gaussians._replace(means=means), world_to_camera, intrinsics, size, near, far
        )
        touching = lambda corner: _touching(corner, tile, rows, reach, seen, capacity)
        found, left_out = _map(touching, (corners,), max(pairs // len(rows), 1))
        # A row of zeros for places that stay empty: it has no opacity.
        rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
        pictures = _map(composite, (rows[found], corners), tiles_at_once)
        return _joined(pictures, size, tile), left_out.sum()

    views_at_once = max(tiles_at_once // len(corners), 1)
    pictures, left_out = _map(
        render, (gaussians.means, world_to_camera, intrinsics), views_at_once
    )
    return _splatted(pictures, left_out)


def naive_rasterise(
    gaussians: Gaussians,
    world_to_camera: Float[Array, "views 4 4"],
    intrinsics: Float[Array, "views 3 3"],
    size: Size,
    *,
    near: float = 0.2,
    far: float = 400.0,
) -> Splatted:
    """The definition, Gaussian by Gaussian over all pixels: what `rasterise` is tested against."""
    gaussians, world_to_camera, intrinsics = _checked(gaussians, world_to_camera, intrinsics)
    y, x = jnp.meshgrid(jnp.arange(size[0]) + 0.5, jnp.arange(size[1]) + 0.5, indexing="ij")

    def render(means, world_to_camera, intrinsics):
        points = to_camera(world_to_camera, means)
        ellipses = project(points, gaussians, world_to_camera, intrinsics, size)
        order = jnp.argsort(points[:, 2])

        def add(state, k):
            picture, light, finished = state
            dx, dy = x - ellipses.centres[k, 0], y - ellipses.centres[k, 1]
            a, b, c = ellipses.conics[k]
            power = (a * dx**2 + c * dy**2) / 2 + b * dx * dy
            alpha = jnp.minimum(gaussians.opacities[k] * jnp.exp(-power), GREATEST_ALPHA)
            seen = (points[k, 2] > near) & (points[k, 2] < far)
            alpha = jnp.where(seen & (alpha >= LEAST_ALPHA), alpha, 0)
            finished |= light * (1 - alpha) <= LEAST_LIGHT
            alpha = jnp.where(finished, 0, alpha)
            values = jnp.concatenate([gaussians.features[k], points[k, 2:], jnp.ones(1)])
            picture += (light * alpha)[..., None] * values
            return (picture, light * (1 - alpha), finished), None

        channels = gaussians.features.shape[-1] + 2
        start = jnp.zeros((*size, channels)), jnp.ones(size), jnp.zeros(size, bool)
        return lax.scan(add, start, order)[0][0]

    pictures = jax.vmap(render)(gaussians.means, world_to_camera, intrinsics)
    return _splatted(pictures, jnp.zeros(len(pictures), jnp.int32))


def project(
    points: Float[Array, "n 3"],
    gaussians: Gaussians,
    world_to_camera: Float[Array, "4 4"],
    intrinsics: Float[Array, "3 3"],
    size: Size,
) -> Ellipses:
    """EWA: covariance J W R diag(s^2) R' W' J' + blur, J the local linear map of the projection.

    Args:
        points: the Gaussians' centres in the camera's space; depths that are not zero.
    """
    x, y, z = jnp.moveaxis(points, -1, 0)
    fx, fy, cx, cy = (intrinsics[place] for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    centres = jnp.stack([fx * x / z + cx, fy * y / z + cy], -1)

    def bounded(x, pixels, focal):
        edge = _BEYOND * pixels / (2 * focal)
        return jnp.clip(x / z, -edge, edge)

    zero = jnp.zeros_like(z)
    along = [fx / z, zero, -fx * bounded(x, size[1], fx) / z]
    across = [zero, fy / z, -fy * bounded(y, size[0], fy) / z]
    local = jnp.stack([jnp.stack(along, -1), jnp.stack(across, -1)], -2)
    axes = rotations(gaussians.quaternions) * gaussians.scales[:, None]
    # Deviations of x and y along the Gaussian's axes: their products are the covariance.
    half = jnp.einsum("nij,jk,nkl->nil", local, world_to_camera[:3, :3], axes, precision="highest")
    var_x, var_y = (jnp.sum(half**2, -1) + BLUR).T
    cov = jnp.sum(half[:, 0] * half[:, 1], -1)
    determinant = var_x * var_y - cov**2
    conics = jnp.stack([var_y, -cov, var_x], -1) / determinant[:, None]
    return Ellipses(centres, conics, jnp.stack([var_x, var_y], -1))


def rotations(quaternions: Float[Array, "*n 4"]) -> Float[Array, "*n 3 3"]:
    """Rotation matrices of quaternions, real part first; those of zero length turn nothing."""
    length = jnp.sum(quaternions**2, -1, keepdims=True)
    w, x, y, z = jnp.moveaxis(quaternions, -1, 0)
    double = 2 / jnp.where(length > 0, length, 1)[..., 0]
    rows = [
        [1 - double * (y * y + z * z), double * (x * y - w * z), double * (x * z + w * y)],
        [double * (x * y + w * z), 1 - double * (x * x + z * z), double * (y * z - w * x)],
        [double * (x * z - w * y), double * (y * z + w * x), 1 - double * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _sorted_rows(gaussians, world_to_camera, intrinsics, size, near, far):
    """By depth: what compositing needs of each Gaussian as one row; reach; whether it is seen."""
    points = to_camera(world_to_camera, gaussians.means)
    depths = lax.stop_gradient(points[:, 2])
    seen = (depths > near) & (depths < far)
    # What is not seen lies elsewhere, where its projection is harmless to gradients.
    points = jnp.where(seen[:, None], points, jnp.asarray([0, 0, (near + far) / 2], points.dtype))
    ellipses = project(points, gaussians, world_to_camera, intrinsics, size)
    opacities = gaussians.opacities
    rows = [
        ellipses.centres, ellipses.conics, opacities[:, None], gaussians.features, points[:, 2:]
    ]
    # exp(-power) falls below the least alpha where power > log(opacity / least).
    most = jnp.log(jnp.maximum(opacities / LEAST_ALPHA, 1))
    reach = jnp.sqrt(2 * most[:, None] * ellipses.variances)
    seen &= opacities >= LEAST_ALPHA
    order = jnp.argsort(depths)
    return jnp.concatenate(rows, -1)[order], lax.stop_gradient(reach)[order], seen[order]


def _touching(corner, tile, rows, reach, seen, capacity):
    """Places of the nearest Gaussians that touch a tile, those past the last where there are no
    more; and how many there are besides."""
    centres = lax.stop_gradient(rows[:, :2])
    inside = (centres + reach >= corner + 0.5) & (centres - reach <= corner + tile - 0.5)
    count = jnp.cumsum(seen & inside.all(-1), dtype=jnp.int32)
    found = jnp.searchsorted(count, jnp.arange(1, capacity + 1, dtype=jnp.int32))
    return found, jnp.maximum(count[-1] - capacity, 0)


def _composite(rows: Float[Array, "k 6+c+1"], corner: Int[Array, "2"], tile: int):
    """Front to back over a tile's pixels: sums of weighted features, depths and ones, (p, c + 2).

    The exponents are polynomials of a pixel's place in the tile. As a product of matrices, so are
    their gradients, which would else be sums over pixels one after another.
    """
    middle = tile / 2
    v, u = (place.ravel() - (tile - 1) / 2 for place in jnp.indices((tile, tile), rows.dtype))
    powers = jnp.stack([jnp.ones_like(u), u, v, u * u, u * v, v * v], -1)
    x, y = (rows[:, :2] - corner - middle).T
    a, b, c, opacity = rows[:, 2:6].T
    # Of log(opacity) - (a dx^2 + c dy^2) / 2 - b dx dy.
    coefficients = jnp.stack([
        jnp.log(jnp.maximum(opacity, 1e-30)) - (a * x * x + c * y * y) / 2 - b * x * y,
        a * x + b * y, c * y + b * x, -a / 2, -b, -c / 2,
    ])  # fmt: skip
    product = functools.partial(jnp.matmul, precision="highest")
    alpha = jnp.minimum(jnp.exp(product(powers, coefficients)), GREATEST_ALPHA)
    alpha = jnp.where(alpha >= LEAST_ALPHA, alpha, 0)
    stopped = jnp.log1p(-alpha)
    light = jnp.cumsum(stopped, -1)  # its logarithm, behind each Gaussian
    weights = jnp.where(light > math.log(LEAST_LIGHT), alpha * jnp.exp(light - stopped), 0)
    return product(weights, jnp.concatenate([rows[:, 6:], jnp.ones_like(rows[:, :1])], -1))


def _corners(size, tile):
    """(x, y) of the tiles' upper left corners; the last ones may reach over the edge."""
    y, x = jnp.meshgrid(*(jnp.arange(0, side, tile) for side in size), indexing="ij")
    return jnp.stack([x, y], -1).reshape(-1, 2)


def _joined(tiles: Float[Array, "tiles p c"], size: Size, tile: int) -> Float[Array, "h w c"]:
    rows, columns = (-(-side // tile) for side in size)
    picture = tiles.reshape(rows, columns, tile, tile, -1).swapaxes(1, 2)
    return picture.reshape(rows * tile, columns * tile, -1)[: size[0], : size[1]]


def _splatted(pictures, left_out):
    features, depth, alpha = pictures[..., :-2], pictures[..., -2], pictures[..., -1]
    return Splatted(features, depth / jnp.maximum(alpha, 1e-10), alpha, left_out)


def _map(function: Callable[..., Array], arguments: tuple, at_once: int) -> Array:
    """`jax.vmap`, or a loop over parts of it that keeps no part's inner values for a gradient."""
    length = len(arguments[0])
    at_once = max(k for k in range(1, min(at_once, length) + 1) if length % k == 0)
    mapped = jax.vmap(function)
    if at_once == length:
        return mapped(*arguments)
    cut = lambda x: x.reshape(-1, at_once, *x.shape[1:])
    part = jax.checkpoint(lambda arguments: mapped(*arguments), prevent_cse=False)
    out = lax.map(part, jax.tree.map(cut, arguments))
    return jax.tree.map(lambda x: x.reshape(length, *x.shape[2:]), out)


def _checked(gaussians, world_to_camera, intrinsics):
    """All in one type, float32 at least, and Gaussians with means for every view."""
    views, n = len(world_to_camera), len(gaussians.opacities)
    for name, array, shape in (
        ("world_to_camera", world_to_camera, (views, 4, 4)),
        ("intrinsics", intrinsics, (views, 3, 3)),
        ("quaternions", gaussians.quaternions, (n, 4)),
        ("scales", gaussians.scales, (n, 3)),
        ("opacities", gaussians.opacities, (n,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name}: {array.shape} instead of {shape}")
    if gaussians.features.ndim != 2 or len(gaussians.features) != n:
        raise ValueError(f"features: {gaussians.features.shape} instead of ({n}, c)")
    if gaussians.means.shape not in ((n, 3), (views, n, 3)):
        raise ValueError(
            f"means: {gaussians.means.shape} instead of {(n, 3)} or {(views, n, 3)}"
        )
    dtype = jnp.promote_types(jnp.result_type(*gaussians), jnp.float32)
    cast = lambda x: x.astype(dtype)
    gaussians = Gaussians(*map(cast, gaussians))
    gaussians = gaussians._replace(means=jnp.broadcast_to(gaussians.means, (views, n, 3)))
    return gaussians, cast(world_to_camera), cast(intrinsics)
