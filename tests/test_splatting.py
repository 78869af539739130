"""The tiled rasteriser against the definition and finite differences; cameras."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops import cameras
from stjax.ops.splatting import Gaussians, naive_rasterise, rasterise, rotations
from tests import quick

SIZE = (7, 10)
VIEWS = 2


def scene(seed, n, views=VIEWS, per_view=False, dtype=np.float64):
    """Gaussians before, behind and beside cameras, some too near, too far or too faint to see."""
    rng = np.random.default_rng(seed)
    shape = (views, n) if per_view else (n,)
    means = rng.uniform((-3, -2, -1), (3, 2, 12), (*shape, 3))
    arrays = (
        means, rng.normal(size=(n, 4)), rng.uniform(0.05, 0.8, (n, 3)), rng.uniform(0, 1, n),
        rng.normal(size=(n, 3)),
    )
    view = np.stack([np.eye(4)] * views)
    view[:, 0, 3] = rng.uniform(-1, 1, views)
    intrinsics = np.stack([np.array([[9, 0, 5], [0, 8, 3.5], [0, 0, 1]])] * views)
    cast = lambda x: jnp.asarray(np.asarray(x, dtype))
    return Gaussians(*map(cast, arrays)), cast(view), cast(intrinsics)


def scored(run):
    """Values, and the gradient of a loss that looks at all of them."""

    def loss(gaussians, view, intrinsics):
        seen = run(gaussians, view, intrinsics)
        pixels = jnp.concatenate([seen.features, seen.depth[..., None], seen.alpha[..., None]], -1)
        # No symmetry lets an error cancel.
        weights = jnp.sin(1 + jnp.arange(pixels.size, dtype=pixels.dtype)).reshape(pixels.shape)
        return jnp.sum(pixels * weights), seen

    return jax.grad(loss, (0, 1, 2), has_aux=True)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 40]), tile=st.sampled_from([3, 4, 16]),
    per_view=st.booleans(), pairs=st.sampled_from([1, 2**24]),
)
def test_tiles_have_the_numbers_and_gradients_of_the_definition(seed, n, tile, per_view, pairs):
    options = {"size": SIZE, "near": 0.3, "far": 9.0}
    tiled = functools.partial(rasterise, **options, tile=tile, capacity=n, pairs=pairs)
    naive = functools.partial(naive_rasterise, **options)
    with jax.enable_x64(True):
        arguments = scene(seed, n, per_view=per_view)
        both = quick.jit(lambda *a: (scored(tiled)(*a), scored(naive)(*a)))
        ours, theirs = both(*arguments)
        for mine, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            np.testing.assert_allclose(mine, wanted, rtol=1e-8, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    run = functools.partial(rasterise, size=SIZE, tile=4, capacity=9)
    with jax.enable_x64(True):
        # Opacities such that no pixel comes near a cut-off, where there is no gradient.
        gaussians, view, intrinsics = scene(3, 9)
        gaussians = gaussians._replace(
            means=gaussians.means * jnp.asarray([1, 1, 0.4]) + jnp.asarray([0, 0, 4]),
            scales=gaussians.scales + 1, opacities=0.2 + 0.3 * gaussians.opacities,
        )
        rng = np.random.default_rng(0)
        along = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), gaussians)

        def loss(step):
            moved = jax.tree.map(lambda x, d: x + step * d, gaussians, along)
            seen = run(moved, view, intrinsics)
            return jnp.sum(jnp.sin(seen.features)) + jnp.sum(seen.depth) + jnp.sum(seen.alpha)

        value_and_slope, step = quick.jit(jax.value_and_grad(loss)), 1e-6
        _, slope = value_and_slope(0.0)
        by_hand = (value_and_slope(step)[0] - value_and_slope(-step)[0]) / (2 * step)
        np.testing.assert_allclose(slope, by_hand, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_single_and_half_precision(dtype):
    """Half precision is that of the inputs alone: everything is computed in float32."""
    arguments = jax.tree.map(lambda x: x.astype(dtype), scene(1, 30, dtype=np.float32))
    run = quick.jit(functools.partial(rasterise, size=SIZE, tile=4, capacity=30))
    seen = run(*arguments)
    assert seen.features.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(np.float64(x)), arguments)
        wanted = quick.jit(functools.partial(naive_rasterise, size=SIZE))(*exact)
    for name in ("features", "depth", "alpha"):
        largest = np.abs(getattr(wanted, name)).max()
        error = np.abs(getattr(seen, name) - getattr(wanted, name)).max()
        assert error < 1e-4 * largest, name


def test_what_exceeds_the_capacity_is_the_farthest_and_counted():
    gaussians, view, intrinsics = scene(2, 40, views=1)
    gaussians = gaussians._replace(means=jnp.abs(gaussians.means) * jnp.asarray([0, 0, 1.0]) + 1)
    order = jnp.argsort(gaussians.means[:, 2])[:25]
    nearest = Gaussians(*(x[order] for x in gaussians))
    run = quick.jit(functools.partial(rasterise, size=SIZE, tile=16, capacity=25))
    seen, wanted = run(gaussians, view, intrinsics), run(nearest, view, intrinsics)
    faint = (gaussians.opacities < 1 / 255).sum()
    assert wanted.left_out == 0
    assert 0 < seen.left_out[0] <= 15 - faint
    if not (gaussians.opacities[order] < 1 / 255).any():
        np.testing.assert_allclose(seen.features, wanted.features, atol=1e-6)


def test_nothing_to_see_is_black_and_has_finite_gradients():
    gaussians, view, intrinsics = scene(0, 6)
    degenerate = gaussians._replace(
        means=gaussians.means.at[:, 2].set(jnp.asarray([0, 0, -1, 1e9, 5, 5])),
        opacities=jnp.asarray([1, 1, 1, 1, 0, 0.0]), scales=gaussians.scales.at[4:].set(0),
        quaternions=gaussians.quaternions.at[5].set(0),
    )
    run = functools.partial(rasterise, size=SIZE, tile=4, capacity=6)
    slopes, seen = quick.jit(scored(run))(degenerate, view, intrinsics)
    assert not any(x.any() for x in seen)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("means", lambda g, v, k: (g._replace(means=g.means[:, :2]), v, k)),
        ("scales", lambda g, v, k: (g._replace(scales=g.scales[:3]), v, k)),
        ("quaternions", lambda g, v, k: (g._replace(quaternions=g.scales), v, k)),
        ("features", lambda g, v, k: (g._replace(features=g.opacities), v, k)),
        ("world_to_camera", lambda g, v, k: (g, v[:, :3], k)),
        ("intrinsics", lambda g, v, k: (g, v, k[:1])),
    ],
)
def test_bad_shapes_are_named(name, change):
    with pytest.raises(ValueError, match=f"^{name}: "):
        rasterise(*change(*scene(0, 5)), SIZE)


def test_backward_memory_is_not_pixels_times_gaussians():
    """Pairs at work are bounded: eight times the pixels need no more than the pixels do."""
    gaussians, view, intrinsics = scene(0, 2000, dtype=np.float32)

    def bytes_of(size, tile):
        run = functools.partial(rasterise, size=size, tile=tile, capacity=256, pairs=2**14)
        loss = lambda *a: jnp.sum(run(*a).features ** 2)
        compiled = quick.jit(jax.grad(loss)).lower(gaussians, view, intrinsics).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = bytes_of((16, 32), 8), bytes_of((64, 64), 8)
    pairs = 64 * 64 * VIEWS * 256 * 4
    assert large < 2 * pairs  # one array of all pairs, where autodiff alone would keep many
    assert large - small < 1.2 * pairs


def test_rotations_are_those_of_unit_quaternions():
    half = np.pi / 8
    turned = rotations(3 * jnp.asarray([np.cos(half), 0, 0, np.sin(half)]))
    c = np.sqrt(0.5)
    np.testing.assert_allclose(turned, [[c, -c, 0], [c, c, 0], [0, 0, 1]], atol=1e-6)


def test_rays_go_through_what_their_pixels_see():
    rng = np.random.default_rng(0)
    poses = np.eye(4)
    poses[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    poses[:3, 3] = rng.normal(size=3)
    intrinsics = np.array([[30, 0, 12.0], [0, 28, 8], [0, 0, 1]])
    origins, directions = cameras.rays(jnp.asarray(intrinsics), jnp.asarray(poses), (16, 24))
    points = cameras.to_camera(
        jnp.asarray(np.linalg.inv(poses)), (origins + 7 * directions).reshape(-1, 3)
    )
    np.testing.assert_allclose(points[:, 2], 7, rtol=1e-5)
    pixels = (intrinsics @ np.asarray(points).T / 7)[:2].T.reshape(16, 24, 2)
    columns, rows = np.meshgrid(np.arange(24) + 0.5, np.arange(16) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-4)
    # A point further along the ray has the same coordinates.
    moved = cameras.pluecker(origins + 3 * directions, directions)
    np.testing.assert_allclose(moved, cameras.pluecker(origins, directions), atol=1e-5)
