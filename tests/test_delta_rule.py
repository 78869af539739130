"""Every method of `delta_rule` against the definition, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stjax.ops.delta_rule import delta_rule, delta_step, naive_delta_rule
from tests import methods, quick
from tests.methods import assert_close

METHODS = ("sequential", "associative", "chunked")


def problem(steps, heads=2, decay=True, start=True, strength=1.0, seed=0):
    """Arguments of the recurrence: b = 2, 3 features of unit keys, 2 of values, beta up to 2."""
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, 2, steps, heads, 3))
    arguments = {
        "q": q,
        "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
        "v": rng.standard_normal((2, steps, heads, 2)),
        "beta": rng.uniform(0, 2, (2, steps, heads)),
    }
    if decay:
        arguments["log_decay"] = -strength * rng.exponential(size=(2, steps, heads))
    if start:
        arguments["initial"] = rng.standard_normal((2, heads, 3, 2))
    return arguments


def run_all(arguments, chunk=64):
    """See `methods.run_all`."""
    runs = {"naive": naive_delta_rule} | {
        method: functools.partial(delta_rule, method=method, chunk=chunk) for method in METHODS
    }
    return methods.run_all(runs, arguments)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    steps=st.integers(1, 300),
    heads=st.integers(1, 2),
    decay=st.booleans(),
    start=st.booleans(),
    strength=st.sampled_from([0.01, 1.0, 30.0]),
    chunk=st.integers(1, 80),
)
@example(150, 2, True, True, 0.1, 64)
def test_every_method_has_the_numbers_and_gradients_of_the_definition(
    steps, heads, decay, start, strength, chunk
):
    with jax.enable_x64(True):
        results = run_all(problem(steps, heads, decay, start, strength), chunk)
    for method in METHODS:
        assert_close(results[method], results["naive"], 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 5e-5), (jnp.bfloat16, 2e-2)])
def test_low_precision(dtype, tolerance):
    arguments = jax.tree.map(lambda x: jnp.asarray(x, dtype), problem(90, strength=0.1))
    call = lambda arguments: {
        method: delta_rule(**arguments, method=method, chunk=32) for method in METHODS
    }
    exact = quick.jit(naive_delta_rule)(**jax.tree.map(jnp.float32, arguments))
    for y, last in quick.jit(call)(arguments).values():
        assert (y.dtype, last.dtype) == (dtype, jnp.float32)
        # The states are of float32 either way.
        assert_close(y, exact[0], tolerance)
        assert_close(last, exact[1], 5e-5)


def test_forgetting_everything_is_no_nan():
    """Decays of zero, products that underflow, and what comes after them."""
    arguments = problem(50, strength=0.1)
    forget = arguments["log_decay"]
    forget[..., :1] = -1e30
    forget[:, 7:9], forget[0, 20], forget[1, 30:] = -np.inf, -80.0, -200.0
    results = run_all(jax.tree.map(np.float32, arguments), 32)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
    for method in METHODS:
        assert_close(results[method], results["naive"], 2e-4)


def test_a_full_write_is_read_back_whatever_was_held_before():
    """What the rule is for: a unit key written with beta = 1 reads its value, and no other."""
    keys = np.eye(3)[[0, 1, 0]][None, :, None]
    values = np.arange(6.0).reshape(1, 3, 1, 2)
    y, last = delta_rule(keys, keys, values, np.ones((1, 3, 1)))
    np.testing.assert_allclose(y, values, atol=1e-6)
    np.testing.assert_allclose(last[0, 0], [[4, 5], [2, 3], [0, 0]], atol=1e-6)


def test_a_step_writes_many_keys_at_once():
    rng = np.random.default_rng(0)
    state, k, v = (rng.standard_normal(shape) for shape in ((2, 3, 4), (2, 5, 3), (2, 5, 4)))
    beta, decay = rng.uniform(size=(2, 2, 3, 4))
    expected = decay * (state - beta * np.einsum("bnk,bnl,blv->bkv", k, k, state))
    expected += beta * np.einsum("bnk,bnv->bkv", k, v)
    ours = delta_step(state, k, v, beta, decay)
    np.testing.assert_allclose(ours, expected, 1e-4, 1e-5)


GIVEN = problem(4)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"q": np.ones((2, 4, 3))}, "q"),
        ({"q": np.ones((2, 0, 2, 3))}, "q"),
        ({"k": np.ones((2, 4, 1, 3))}, "k"),
        ({"v": np.ones((2, 4, 1, 2))}, "v"),
        ({"beta": np.ones((2, 4, 2, 1))}, "beta"),
        ({"log_decay": np.ones(2)}, "log_decay"),
        ({"initial": np.ones((2, 2, 2, 3))}, "initial"),
        ({"method": "magic"}, "method"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        delta_rule(**{**GIVEN, **arguments})
