"""Every method of `gated_linear_attention` against the definition, and what is built on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stjax.ops.gated_linear_attention import (
    gated_linear_attention,
    linear_attention,
    naive_gated_linear_attention,
    retention,
    ssd,
)
from tests import methods, quick
from tests.methods import assert_close

METHODS = ("sequential", "associative", "chunked")
DECAYS = ("none", "head", "step", "channel")


def problem(steps, decay, groups=2, shared=2, start=True, strength=1.0, seed=0):
    """Arguments of the recurrence: b = 2, 3 features of keys, 2 of values."""
    rng = np.random.default_rng(seed)
    heads = groups * shared
    q, k = rng.standard_normal((2, 2, steps, groups, 3))
    arguments = {"q": q, "k": k, "v": rng.standard_normal((2, steps, heads, 2))}
    shape = {"head": (heads,), "step": (2, steps, heads), "channel": (2, steps, heads, 3)}
    if decay != "none":
        arguments["log_decay"] = -strength * rng.exponential(size=shape[decay])
    if start:
        arguments["initial"] = rng.standard_normal((2, heads, 3, 2))
    return arguments


def run_all(arguments, chunk=64):
    """See `methods.run_all`."""
    runs = {"naive": naive_gated_linear_attention} | {
        method: functools.partial(gated_linear_attention, method=method, chunk=chunk)
        for method in METHODS
    }
    return methods.run_all(runs, arguments)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    steps=st.integers(1, 300),
    decay=st.sampled_from(DECAYS),
    groups=st.integers(1, 2),
    shared=st.integers(1, 2),
    start=st.booleans(),
    strength=st.sampled_from([0.01, 1.0, 30.0]),
    chunk=st.integers(1, 80),
)
@example(150, "channel", 1, 2, True, 1.0, 64)
@example(83, "step", 2, 2, True, 0.01, 20)
def test_every_method_has_the_numbers_and_gradients_of_the_definition(
    steps, decay, groups, shared, start, strength, chunk
):
    with jax.enable_x64(True):
        arguments = problem(steps, decay, groups, shared, start, strength)
        results = run_all(arguments, chunk)
    for method in METHODS:
        assert_close(results[method], results["naive"], 1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("decay", ["step", "channel"])
def test_low_precision(decay, dtype, tolerance):
    arguments = jax.tree.map(lambda x: jnp.asarray(x, dtype), problem(90, decay, strength=0.1))
    call = lambda arguments: {
        method: gated_linear_attention(**arguments, method=method, chunk=32) for method in METHODS
    }
    exact = quick.jit(naive_gated_linear_attention)(**jax.tree.map(jnp.float32, arguments))
    for y, last in quick.jit(call)(arguments).values():
        assert (y.dtype, last.dtype) == (dtype, jnp.float32)
        # The states are of float32 either way.
        assert_close(y, exact[0], tolerance)
        assert_close(last, exact[1], 2e-5)


@pytest.mark.parametrize("decay", ["step", "channel"])
def test_forgetting_everything_is_no_nan(decay):
    """Decays of zero, products that underflow, and what comes after them."""
    arguments = problem(50, decay, strength=0.1)
    forget = arguments["log_decay"]
    forget[..., :1] = -1e30
    forget[:, 7:9], forget[0, 20], forget[1, 30:] = -np.inf, -80.0, -200.0
    results = run_all(jax.tree.map(np.float32, arguments), 32)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))
    for method in METHODS:
        assert_close(results[method], results["naive"], 2e-4)


def test_the_loop_keeps_few_states_for_its_backward_pass():
    """A state is 1 KiB here: 512 KiB for all steps, 32 KiB for a chunk's and those between."""
    shape = jax.ShapeDtypeStruct((1, 512, 1, 16), jnp.float32)

    def memory(run):
        gradient = jax.grad(lambda q, k, v: jnp.sum(run(q, k, v)[0] ** 2), (0, 1, 2))
        analysis = jax.jit(gradient).lower(shape, shape, shape).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    run = functools.partial(gated_linear_attention, method="sequential", chunk=16)
    assert memory(run) < memory(naive_gated_linear_attention) / 2


def test_auto_is_one_of_the_methods():
    ones = jnp.ones((1, 4, 1, 1))
    y, last = gated_linear_attention(ones, ones, ones, jnp.log(jnp.full((1,), 0.5)))
    np.testing.assert_allclose(y.ravel(), [1, 1.5, 1.75, 1.875], 1e-6)
    np.testing.assert_allclose(last.ravel(), 1.875, 1e-6)


@pytest.mark.parametrize("method", ["parallel", "sequential", "chunked"])
def test_retention_is_a_product_of_matrices(method):
    """RetNet's parallel form, written out: (Q K^T / sqrt(k) * D) V."""
    arguments = problem(21, "none", start=False)
    decay = np.array([0.5, 0.8, 0.9, 0.99])
    q, k = (np.repeat(arguments[name], 2, axis=2) for name in "qk")
    distance = np.arange(21)[:, None] - np.arange(21)
    decays = np.where(distance >= 0, decay[:, None, None] ** np.maximum(distance, 0), 0)
    scores = np.einsum("bihk,bjhk->bhij", q, k) * decays / np.sqrt(3)
    y, _ = retention(**arguments, decay=decay, method=method, chunk=8)
    assert_close(y, np.einsum("bhij,bjhv->bihv", scores, arguments["v"]), 1e-5)


def test_ssd_is_a_state_space_step_by_step():
    rng = np.random.default_rng(0)
    x, step = rng.standard_normal((2, 9, 4, 3)), rng.uniform(0.1, 1, (2, 9, 4))
    B, C = rng.standard_normal((2, 2, 9, 2, 5))
    rates, skip = -rng.uniform(0.1, 1, 4), rng.standard_normal(4)
    first = state = rng.standard_normal((2, 4, 5, 3))
    outputs = []
    for t in range(9):
        into, out = (np.repeat(x[:, t], 2, axis=1) for x in (B, C))
        decay = np.exp(step[:, t] * rates)[..., None, None]
        state = decay * state + np.einsum("bh,bhn,bhp->bhnp", step[:, t], into, x[:, t])
        outputs.append(np.einsum("bhn,bhnp->bhp", out, state) + skip[:, None] * x[:, t])
    y, last = ssd(x, step, rates, B, C, skip, first, method="chunked", chunk=4)
    assert_close((y, last), (np.stack(outputs, 1), state), 1e-5)
    short, last = ssd(jnp.bfloat16(x), step, rates, B, C)
    assert (short.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_is_attention_with_other_weights(causal):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 11, 2, 4))
    feature = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    weights = np.einsum("bihk,bjhk->bhij", feature(q), feature(k))
    weights = np.tril(weights) if causal else weights
    weights = weights / (weights.sum(-1, keepdims=True) + 0.1)
    y = linear_attention(q, k, v, causal=causal, eps=0.1)
    assert_close(y, np.einsum("bhij,bjhv->bihv", weights, v), 1e-5)
    short = linear_attention(*map(jnp.bfloat16, (q, k, v)), causal=causal, eps=0.1)
    assert short.dtype == jnp.bfloat16
    assert_close(short, y, 3e-2)


def test_cross_attention_may_have_other_lengths():
    y = linear_attention(np.ones((1, 5, 2, 4)), np.ones((1, 3, 2, 4)), np.ones((1, 3, 2, 6)))
    np.testing.assert_allclose(y, np.ones((1, 5, 2, 6)), 1e-5)


GIVEN = problem(4, "step")
SSD = {
    "x": np.ones((1, 4, 2, 3)),
    "step": np.ones((1, 4, 2)),
    "rates": np.ones(2),
    "B": np.ones((1, 4, 1, 5)),
    "C": np.ones((1, 4, 1, 5)),
}


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (gated_linear_attention, {"q": np.ones((2, 4, 3))}, "q"),
        (gated_linear_attention, {"q": np.ones((2, 0, 2, 3))}, "q"),
        (gated_linear_attention, {"k": np.ones((2, 4, 1, 3))}, "k"),
        (gated_linear_attention, {"v": np.ones((2, 4, 3, 2))}, "v"),
        (gated_linear_attention, {"v": np.ones((2, 3, 4, 2))}, "v"),
        (gated_linear_attention, {"log_decay": np.ones(2)}, "log_decay"),
        (gated_linear_attention, {"log_decay": np.ones((2, 4, 4, 2))}, "log_decay"),
        (gated_linear_attention, {"initial": np.ones((2, 4, 2, 3))}, "initial"),
        (gated_linear_attention, {"method": "magic"}, "method"),
        (gated_linear_attention, {"chunk": 0}, "chunk"),
        (retention, {"log_decay": None, "decay": np.ones(2)}, "decay"),
        (ssd, {"x": np.ones((4, 2, 3))}, "x"),
        (ssd, {"step": np.ones((1, 4, 1))}, "step"),
        (ssd, {"rates": np.ones(1)}, "rates"),
        (ssd, {"skip": np.ones(3)}, "skip"),
        (ssd, {"B": np.ones((1, 4, 3, 5))}, "B"),
        (ssd, {"C": np.ones((1, 4, 2, 5))}, "C"),
        (ssd, {"initial": np.ones((1, 2, 3, 5))}, "initial"),
        (linear_attention, {"k": np.ones((2, 4, 4, 3))}, "k"),
        (linear_attention, {"v": np.ones((2, 3, 2, 3))}, "v"),
        (linear_attention, {"v": np.ones((2, 4, 2, 3)), "causal": True, "method": "m"}, "method"),
    ],
)
def test_what_does_not_fit_is_named(call, arguments, name):
    defaults = {
        gated_linear_attention: GIVEN,
        retention: {name: GIVEN[name] for name in "qkv"},
        ssd: SSD,
        linear_attention: {name: GIVEN[name] for name in "qkv"},
    }[call]
    arguments = {**defaults, **arguments}
    if call is retention:
        del arguments["log_decay"]
    with pytest.raises(ValueError, match=f"^{name}"):
        call(**arguments)
