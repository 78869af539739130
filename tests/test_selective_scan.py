"""Every method of `selective_scan` against the definition, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.selective_scan import METHODS, naive_selective_scan, selective_scan
from tests import quick


def arguments(length, *, batch=2, groups=2, per_group=2, size=3, seed=0):
    """x, step, rates, B, C, skip, initial; of one group, B and C have no axis of groups."""
    rng = np.random.default_rng(seed)
    channels = groups * per_group
    shared = (batch, length, size) if groups == 1 else (batch, length, groups, size)
    return (
        rng.standard_normal((batch, length, channels)),
        rng.uniform(0.01, 1, (batch, length, channels)),
        -rng.uniform(0.1, 2, (channels, size)),
        rng.standard_normal(shared),
        rng.standard_normal(shared),
        rng.standard_normal(channels),
        rng.standard_normal((batch, channels, size)),
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 300),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 2),
    size=st.integers(1, 3),
    start=st.booleans(),
    skip=st.booleans(),
    reverse=st.booleans(),
    chunk=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_method_has_the_numbers_and_gradients_of_the_definition(
    length, groups, per_group, size, start, skip, reverse, chunk, seed
):
    *inputs, weight, initial = arguments(
        length, groups=groups, per_group=per_group, size=size, seed=seed
    )
    inputs += [weight if skip else None, initial if start else None]
    runs = {"naive": naive_selective_scan} | {
        method: functools.partial(selective_scan, method=method, chunk=chunk)
        for method in METHODS
    }

    def values_and_gradients(run, inputs):
        def loss(inputs):
            y, last = run(*inputs, reverse=reverse)
            return jnp.sum(jnp.square(y)) + jnp.sum(last), (y, last)

        return jax.grad(loss, has_aux=True)(inputs)

    with jax.enable_x64(True):
        results = quick.jit(
            lambda inputs: {name: values_and_gradients(run, inputs) for name, run in runs.items()}
        )(inputs)
    for method in METHODS:
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(
                ours, theirs, 1e-9, 1e-9 * np.abs(theirs).max()
            ),
            results[method],
            results["naive"],
        )


def run_in(dtype, inputs):
    """Outputs and last states of all methods from inputs of a dtype, and these inputs."""
    cast = jax.tree.map(lambda array: jnp.asarray(np.float32(array), dtype), inputs)
    return quick.jit(
        lambda inputs: {method: selective_scan(*inputs, method=method) for method in METHODS}
    )(cast), cast


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-3)])
def test_lower_precisions_stay_close_to_the_definition_of_their_inputs(dtype, tolerance):
    results, cast = run_in(dtype, arguments(150))
    with jax.enable_x64(True):
        exact = jax.device_get(naive_selective_scan(*(np.float64(array) for array in cast)))
    for y, last in results.values():
        assert (y.dtype, last.dtype) == (dtype, jnp.float32)
        # An output is rounded to its dtype once; states never are to less than float32.
        for ours, theirs, bound in zip((y, last), exact, (tolerance, 2e-6)):
            error = np.abs(np.asarray(ours, np.float64) - theirs).max()
            assert error < bound * np.abs(theirs).max()


@pytest.mark.parametrize("method", METHODS)
def test_decays_that_underflow_forget_and_have_finite_gradients(method):
    x, step, rates, *rest = arguments(40)
    inputs = jax.tree.map(jnp.float32, (x, step, 1e6 * rates, *rest))

    def loss(inputs):
        y, last = selective_scan(*inputs, method=method, chunk=16)
        return jnp.sum(jnp.square(y)) + jnp.sum(last), (y, last)

    gradients, (y, _) = quick.jit(jax.grad(loss, has_aux=True))(inputs)
    x, step, _, B, C, skip, _ = inputs
    of_now = jnp.repeat(jnp.sum(B * C, -1), 2, -1)
    np.testing.assert_allclose(y, (step * of_now + skip) * x, 1e-5, 1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not gradients[2].any()


def test_a_clip_in_pieces_is_the_clip():
    @quick.jit
    def runs(x, step, rates, B, C, skip, initial):
        state, outputs = initial, []
        for piece in (slice(0, 4), slice(4, 5), slice(5, 11)):
            now = (array[:, piece] for array in (x, step))
            y, state = selective_scan(*now, rates, B[:, piece], C[:, piece], skip, state)
            outputs.append(y)
        whole = selective_scan(x, step, rates, B, C, skip, initial)
        return whole, (jnp.concatenate(outputs, 1), state)

    whole, pieces = runs(*jax.tree.map(jnp.float32, arguments(11)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), pieces, whole)


def test_the_loop_never_holds_the_states_of_all_steps():
    sizes = {"groups": 1, "per_group": 32, "size": 16}
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.float32, arguments(1024, **sizes)))
    states = 4 * 1024 * np.prod(shapes[-1].shape)
    loss = lambda inputs: jnp.sum(selective_scan(*inputs, method="sequential", chunk=32)[0])
    compiled = quick.jit(jax.grad(loss)).lower(shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < states / 2


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"x": np.ones((2, 4))}, "x"),
        ({"x": np.ones((2, 0, 4))}, "x"),
        ({"step": np.ones((2, 5, 1))}, "step"),
        ({"rates": np.ones((3, 3))}, "rates"),
        ({"B": np.ones((2, 5, 3, 3))}, "B"),
        ({"B": np.ones((2, 5, 2))}, "B"),
        ({"C": np.ones((2, 5, 3))}, "C"),
        ({"skip": np.ones(3)}, "skip"),
        ({"initial": np.ones((2, 3, 4))}, "initial"),
        ({"method": "magic"}, "method"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_what_does_not_fit_is_named(changed, name):
    names = ("x", "step", "rates", "B", "C", "skip", "initial")
    with pytest.raises(ValueError, match=f"^{name}:"):
        selective_scan(**dict(zip(names, arguments(5))) | changed)
