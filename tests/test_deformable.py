"""Deformable attention against its definition, and the layers that choose the points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.layers.deformable_attention import DeformableAttention, SearchedAttention
from stjax.ops.deformable import deformable_attention, naive_deformable_attention
from stjax.ops.rotary import grid_positions
from tests import quick


@st.composite
def problems(draw):
    dims, levels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    queries, heads, points = (
        draw(st.integers(1, 40)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = rng.integers(1, 6, (levels, dims))
    values = [rng.standard_normal((2, *shape, heads, 2)) for shape in shapes]
    places = rng.uniform(-2, shapes[:, None] + 2, (2, queries, heads, levels, points, dims))
    return values, places, rng.standard_normal(places.shape[:-1])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=problems())
def test_numbers_and_gradients_of_the_definition(problem):
    def values_and_gradients(run, arguments):
        def loss(*arguments):
            out = run(*arguments)
            return jnp.sum(jnp.square(out)), out

        return jax.grad(loss, (0, 1, 2), has_aux=True)(*arguments)

    with jax.enable_x64(True):
        ours, theirs = quick.jit(
            lambda arguments: [
                values_and_gradients(run, arguments)
                for run in (deformable_attention, naive_deformable_attention)
            ]
        )(problem)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9), ours, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_dtypes(dtype, tolerance):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((1, 3, 4, 2, 3)), rng.standard_normal((1, 2, 2, 2, 3))]
    points, weights = rng.uniform(-1, 4, (1, 5, 2, 2, 3, 2)), rng.uniform(0, 0.2, (1, 5, 2, 2, 3))
    ours = quick.jit(deformable_attention)(
        [jnp.asarray(x, dtype) for x in values],
        jnp.asarray(points, jnp.float32),
        jnp.asarray(weights, dtype),
    )
    assert ours.dtype == dtype
    exact = quick.jit(naive_deformable_attention)(values, points, weights)
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, 0, tolerance)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"points": np.ones((2, 5, 3, 1, 2))}, "points"),
        ({"weights": np.ones((2, 5, 3, 1, 3))}, "weights"),
        ({"values": []}, "values"),
        ({"values": [np.ones((2, 3, 4, 3, 1))] * 2}, "values"),
        ({"values": [np.ones((2, 3, 3, 1))]}, "values"),
        ({"values": [np.ones((2, 3, 4, 2, 1))]}, "values"),
        ({"values": [np.ones((1, 3, 4, 3, 1))]}, "values"),
        ({"values": [np.ones((2, 0, 4, 3, 1))]}, "values"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    fitting = {
        "values": [np.ones((2, 3, 4, 3, 1))],
        "points": np.ones((2, 5, 3, 1, 2, 2)),
        "weights": np.ones((2, 5, 3, 1, 2)),
    }
    with pytest.raises(ValueError, match=f"^{name}"):
        deformable_attention(**{**fitting, **arguments})


def places_of(shape):
    return jnp.asarray((grid_positions(shape) + 0.5) / np.array(shape), jnp.float32)[None]


@pytest.mark.parametrize("shape", [(9,), (7, 9), (7, 9, 9)])
def test_at_the_start_each_head_looks_one_way_with_equal_weights(shape):
    module = DeformableAttention(heads=4, points=3)
    queries = jnp.zeros((1, 1, 8))
    video = jax.random.normal(jax.random.key(1), (1, *shape, 8))
    centre = jnp.full((1, 1, len(shape)), 0.5)
    variables = quick.jit(module.init)(jax.random.key(0), queries, centre, [video])
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables["params"]["weights"]))
    bias = variables["params"]["offsets"]["bias"]
    assert bias.shape == (4, 1, 3, len(shape))
    np.testing.assert_allclose(np.abs(bias).max(-1), np.tile([1.0, 2, 3], (4, 1, 1)), 1e-6)
    ways = np.unique(np.round(bias[:, 0, 0], 6), axis=0)
    assert len(ways) == (2 if len(shape) == 1 else 4)
    assert not variables["params"]["offsets"]["kernel"].any()
    out = jax.eval_shape(module.apply, variables, queries, centre, [video])
    assert out.shape == (1, 1, 8)


def test_places_are_the_same_on_every_level():
    """Levels that hold their own coordinates, read without offsets, say where the query is."""
    shapes = [(6, 8), (3, 4)]
    ramps = [places_of(shape).reshape(1, *shape, 2) for shape in shapes]
    module = DeformableAttention(heads=1, points=1)
    places = jnp.array([[[0.5, 0.25], [0.3, 0.7]]])
    queries = jnp.ones((1, 2, 2))
    variables = jax.tree.map(jnp.zeros_like, quick.variables(module, queries, places, ramps))
    variables["params"]["value"]["kernel"] = jnp.eye(2)[:, None]
    variables["params"]["out"]["kernel"] = jnp.eye(2)[None]
    apply = quick.jit(module.apply)
    np.testing.assert_allclose(apply(variables, queries, places, ramps), places, 1e-5)
    # one cell along the last axis, which comes first among offsets: an eighth, and a quarter
    variables["params"]["offsets"]["bias"] = jnp.zeros((1, 2, 1, 2)).at[..., 0].set(1)
    moved = apply(variables, queries, places, ramps)
    np.testing.assert_allclose(moved[:, 0], places[:, 0] + jnp.array([0, 3 / 16]), 1e-5)


def test_searching_everywhere_is_full_attention():
    video = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 8))
    tokens = jax.random.normal(jax.random.key(1), (2, 2, 8))
    searched = SearchedAttention(heads=2, groups=2, stride=(1, 1, 1))
    variables = quick.variables(searched, video, tokens)
    network = variables["params"]["offsets"]
    network["out"] = jax.tree.map(jnp.zeros_like, network["out"])
    ours, full = quick.jit(
        lambda *arguments: [
            module.apply(*arguments) for module in (searched, searched.clone(search=False))
        ]
    )(variables, video, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), ours, full)


def test_points_stay_within_a_stride_and_within_the_clip():
    video = 10 * jax.random.normal(jax.random.key(0), (1, 5, 4, 6, 8))
    module = SearchedAttention(heads=2, groups=4)
    variables = quick.variables(module, video, jnp.zeros((1, 1, 8)))
    apply = functools.partial(module.apply, mutable="intermediates")
    _, inner = quick.jit(apply)(variables, video, jnp.zeros((1, 1, 8)))
    points = inner["intermediates"]["points"][0]
    assert points.shape == (1, 3 * 2 * 3, 4, 3)
    lattice = 2 * (grid_positions((3, 2, 3)) + 0.5) - 0.5
    assert np.abs(points - lattice[:, None]).max() <= 2
    assert points[..., 0].min() >= 0
    assert points[..., 0].max() <= 4
    assert np.std(points - lattice[:, None]) > 0.01


def test_layers_in_bfloat16():
    video = jnp.ones((1, 2, 4, 4, 8), jnp.bfloat16)
    tokens = jnp.ones((1, 2, 8), jnp.bfloat16)
    module = SearchedAttention(heads=2, groups=2, dtype=jnp.bfloat16)
    out = jax.eval_shape(module.apply, quick.variables(module, video, tokens), video, tokens)
    assert [x.dtype for x in out] == [jnp.bfloat16] * 2
    module = DeformableAttention(heads=2, dtype=jnp.bfloat16)
    arguments = tokens, jnp.full((1, 2, 3), 0.5), [video]
    variables = quick.variables(module, *arguments)
    out = quick.jit(module.apply)(variables, *arguments)
    assert out.dtype == jnp.bfloat16
    assert np.isfinite(out.astype(jnp.float32)).all()


def test_heads_and_groups_that_do_not_divide():
    with pytest.raises(ValueError, match=r"^heads"):
        DeformableAttention(3).init(
            jax.random.key(0), jnp.ones((1, 2, 8)), jnp.ones((1, 2, 2)), [jnp.ones((1, 2, 2, 8))]
        )
    with pytest.raises(ValueError, match=r"^groups"):
        SearchedAttention(2, groups=3).init(
            jax.random.key(0), jnp.ones((1, 2, 2, 2, 8)), jnp.ones((1, 1, 8))
        )
