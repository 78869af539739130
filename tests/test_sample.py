"""Sampling a grid: against the definition, a loop of NumPy, and SciPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.sample import from_normalized, naive_sample, sample
from tests import quick

WAYS = {
    f"{mode} {padding} {align_corners}": {
        "mode": mode,
        "padding": padding,
        "align_corners": align_corners,
    }
    for mode, padding, align_corners in itertools.product(
        ("linear", "nearest"), ("zeros", "border", "reflection"), (False, True)
    )
    if padding == "reflection" or not align_corners
}


def problem(dims, count, seed, reach=4.0):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, dims))
    values = rng.standard_normal((2, *shape, 3))
    points = rng.uniform(-reach, np.array(shape) + reach, (2, count, dims))
    return values, points


@settings(max_examples=4, deadline=None, derandomize=True)
@given(dims=st.integers(1, 3), count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_every_way_has_the_numbers_and_gradients_of_the_definition(dims, count, seed):
    values, points = problem(dims, count, seed)

    def values_and_gradients(run, values, points):
        def loss(values, points):
            out = run(values, points)
            return jnp.sum(jnp.square(out)), out

        return jax.grad(loss, (0, 1), has_aux=True)(values, points)

    with jax.enable_x64(True):
        results = quick.jit(
            lambda *arguments: [
                [
                    values_and_gradients(functools.partial(run, **way), *arguments)
                    for run in (sample, naive_sample)
                ]
                for way in WAYS.values()
            ]
        )(values, points)
    for name, (ours, theirs) in zip(WAYS, results):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9, err_msg=name),  # noqa: B023
            ours,
            theirs,
        )


def test_a_loop_over_points_and_corners():
    values, points = problem(3, 40, 1)
    wanted = np.zeros((2, 40, 3))
    for b, m in np.ndindex(2, 40):
        low = np.floor(points[b, m]).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            cell = low + corner
            if all(0 <= i < n for i, n in zip(cell, values.shape[1:4])):
                weight = np.prod(1 - np.abs(points[b, m] - cell))
                wanted[b, m] += weight * values[b, *cell]
    np.testing.assert_allclose(sample(values, points), wanted, 1e-5, 1e-5)


# "constant" would do otherwise: SciPy cuts off where torch fades out.
@pytest.mark.parametrize(
    ("way", "scipys"),
    [
        ({"padding": "border"}, "nearest"),
        ({"padding": "reflection"}, "reflect"),
        ({"padding": "reflection", "align_corners": True}, "mirror"),
        ({"padding": "zeros"}, "grid-constant"),
    ],
)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_scipy(way, scipys, dims):
    values, points = problem(dims, 50, 5)
    ours = sample(values, points, **way)
    for b, c in np.ndindex(2, 3):
        theirs = scipy.ndimage.map_coordinates(values[b, ..., c], points[b].T, order=1, mode=scipys)
        np.testing.assert_allclose(ours[b, :, c], theirs, 1e-4, 1e-5)


def test_points_of_any_shape_and_one_dimension():
    values = jnp.arange(5.0)[None, :, None]
    points = jnp.array([0.5, 3.25, -0.5, 4.75, 7]).reshape(1, 5, 1, 1)
    out = sample(values, points)
    assert out.shape == (1, 5, 1, 1)
    np.testing.assert_allclose(out[0, :, 0, 0], [0.5, 3.25, 0, 1, 0])


@pytest.mark.parametrize("align_corners", [False, True])
def test_normalized_points_come_last_axis_first(align_corners):
    ours = from_normalized(jnp.array([[-1.0, 1], [0, 0]]), (3, 5), align_corners=align_corners)
    edge = 0 if align_corners else 0.5
    np.testing.assert_allclose(ours, [[2 + edge, -edge], [1, 2]])


@pytest.mark.parametrize("way", WAYS)
def test_points_far_away_are_finite(way):
    values = jnp.ones((1, 3, 4, 2))
    points = jnp.array([[[1e30, 0], [-jnp.inf, 1], [1, 2]]])
    if WAYS[way]["padding"] == "reflection":
        points = jnp.clip(points, -1e6, 1e6)  # infinity has no place between two mirrors
    run = jax.value_and_grad(lambda *arguments: sample(*arguments, **WAYS[way]).sum(), (0, 1))
    out, gradients = quick.jit(run)(values, points)
    assert all(np.isfinite(x).all() for x in (out, *gradients))
    assert out == (2 if WAYS[way]["padding"] == "zeros" else 6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_dtypes(dtype, tolerance):
    values, points = problem(3, 30, 2)
    ours = sample(jnp.asarray(values, dtype), jnp.asarray(points, jnp.float32))
    assert ours.dtype == dtype
    with jax.enable_x64(True):
        exact = sample(values, points)
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, 0, tolerance)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"values": np.ones((2, 3))}, "values"),
        ({"values": np.ones((2, 3, 3, 3, 3, 1))}, "values"),
        ({"values": np.ones((2, 0, 3, 1))}, "values"),
        ({"points": np.ones((2, 5, 3))}, "points"),
        ({"points": np.ones((1, 5, 2))}, "points"),
        ({"points": np.ones(2)}, "points"),
        ({"mode": "cubic"}, "mode"),
        ({"padding": "wrap"}, "padding"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        sample(**{"values": np.ones((2, 3, 4, 1)), "points": np.ones((2, 5, 2)), **arguments})


def test_normalized_points_of_another_dimension():
    with pytest.raises(ValueError, match=r"^points"):
        from_normalized(jnp.ones((3, 2)), (3, 4, 5))
