"""Every method of `linear_recurrence` against the definition, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.recurrence import linear_recurrence, naive_linear_recurrence
from tests import quick

METHODS = ("sequential", "associative", "chunked")


@st.composite
def problems(draw):
    """Arguments of a recurrence: any axis, constant or varying decay, with or without a start."""
    steps, axis = draw(st.integers(1, 300)), draw(st.integers(0, 2))
    shape = [2, 3]
    shape.insert(axis, steps)
    kind = draw(st.sampled_from(["varying", "of length one", "without the axis"]))
    decay_shape = list(shape)
    if kind != "varying":
        decay_shape[axis] = 1
    if kind == "without the axis" and axis == 0:
        decay_shape = decay_shape[1:]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def array(shape):
        values = rng.standard_normal(shape)
        return values + 1j * rng.standard_normal(shape) if draw(st.booleans()) else values

    decay = array(decay_shape)
    decay *= rng.uniform(0, 1, decay_shape) / abs(decay)  # inside the unit circle
    arguments = [decay, array(shape)]
    if draw(st.booleans()):
        arguments.append(array([2, 3]))
    return arguments, {"axis": axis, "reverse": draw(st.booleans())}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=problems(), chunk=st.integers(1, 70))
def test_every_method_has_the_numbers_and_gradients_of_the_definition(problem, chunk):
    arguments, options = problem
    runs = {"naive": naive_linear_recurrence} | {
        method: functools.partial(linear_recurrence, method=method, chunk=chunk)
        for method in METHODS
    }

    def values_and_gradients(run, arguments):
        def loss(*arguments):
            states, last = run(*arguments, **options)
            return jnp.sum(jnp.square(jnp.abs(states))) + jnp.sum(last.real), (states, last)

        return jax.grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)

    with jax.enable_x64(True):
        results = quick.jit(
            lambda arguments: {
                name: values_and_gradients(run, arguments) for name, run in runs.items()
            }
        )(arguments)
    for method in METHODS:
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, 1e-9, 1e-9),
            results[method],
            results["naive"],
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_low_precision_sums_in_float32(method, dtype):
    rng = np.random.default_rng(0)
    decay, inputs = (jnp.asarray(rng.uniform(0.9, 1, (1, 257, 3)), dtype) for _ in range(2))
    initial = jnp.ones((1, 3), dtype)

    def values_and_gradients(run, *arguments):
        (states, last), pullback = jax.vjp(run, *arguments)
        return states, last, *pullback((jnp.ones_like(states), jnp.ones_like(last)))

    run = functools.partial(linear_recurrence, method=method)
    ours = quick.jit(functools.partial(values_and_gradients, run))(decay, inputs, initial)
    with jax.enable_x64(True):
        exact = [np.asarray(array, np.float64) for array in (decay, inputs, initial)]
        exact = quick.jit(functools.partial(values_and_gradients, naive_linear_recurrence))(*exact)
    for mine, theirs in zip(ours, jax.device_get(exact)):
        assert mine.dtype == dtype
        error = np.abs(np.asarray(mine, np.float64) - theirs).max() / np.abs(theirs).max()
        assert error < 2 * float(jnp.finfo(dtype).eps) * (8 if dtype == jnp.float32 else 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decay", [0.0, 1e-30, -1e-30, 1e-30j])
def test_products_that_underflow_are_zeros(method, decay):
    inputs = jnp.zeros((1, 100, 2)).at[:, 0].set(1.0)

    def loss(decay, inputs):
        states, last = linear_recurrence(decay, inputs, method=method, chunk=16)
        return jnp.sum(jnp.abs(states[:, 1:] - 1)) + jnp.sum(jnp.square(jnp.abs(last))), states

    decay = jnp.full((100, 2), decay)
    (gradients, states) = quick.jit(jax.grad(loss, (0, 1), has_aux=True))(decay, inputs)
    np.testing.assert_array_equal(states[:, 3:], 0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_auto_is_one_of_the_methods():
    states, last = linear_recurrence(jnp.full((2,), 0.5), jnp.ones((1, 4, 2)))
    np.testing.assert_allclose(states[0, :, 0], [1, 1.5, 1.75, 1.875])
    np.testing.assert_allclose(last, [[1.875, 1.875]])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"decay": np.ones(3)}, "decay"),
        ({"decay": np.ones((1, 2, 4, 2))}, "decay"),
        ({"initial": np.ones((1, 4, 2))}, "initial"),
        ({"inputs": np.ones((1, 0, 2))}, "inputs"),
        ({"axis": 3}, "axis"),
        ({"method": "magic"}, "method"),
        ({"method": "chunked", "chunk": 0}, "chunk"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        linear_recurrence(**{"decay": np.ones(2), "inputs": np.ones((1, 4, 2)), **arguments})
