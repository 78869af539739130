"""Every method of `attention` against the definition, gradients included."""

import functools
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops import attention as ops
from stjax.ops.attention import attention, chunked, merge, naive_attention
from tests import quick

SETTINGS = {"deadline": None, "derandomize": True}


def grid_masks(n):
    """Masks of a map of n by 4 tokens."""
    return {
        "windows": ops.Windows((n, 4), (n, 2), (0, 1)),
        "shifted windows": ops.Windows((2 * n, 2), (2, 2), (1, 1)),
        "cyclic windows": ops.Windows((2 * n, 2), (2, 2), (1, 1), cyclic=True),
        "neighbourhood": ops.Neighbourhood((n, 4), (max(n // 2, 1), 3)),
    }


LINEAR_MASKS = {
    "full": ops.Full(),
    "causal": ops.Causal(),
    "frame causal": ops.FrameCausal(7),
    "sliding": ops.SlidingWindow(20, 3),
    "global": ops.GlobalLocal(3, 10, 5),
    "dilated": ops.Dilated(30, 4, 1),
    "table": ops.BlockSparse(np.random.default_rng(0).random((10, 10)) < 0.3, 32),
    "radial": ops.Radial(16),
    "both": ops.Causal() & ops.Radial(8, sink=False),
}


@st.composite
def problems(draw, kinds):
    """A mask, arrays that fit it, and keywords."""
    kind = draw(st.sampled_from(sorted(kinds)))
    if kind in LINEAR_MASKS:
        mask, n, m = LINEAR_MASKS[kind], draw(st.integers(1, 300)), draw(st.integers(1, 300))
        starts = draw(st.sampled_from([(0, 0), (7, 0), (5, -6)]))
        if kind == "table":
            n, m, starts = 300, 310, (0, 0)
    else:
        mask = grid_masks(draw(st.integers(1, 60)))[kind]
        n = m = int(np.prod(mask.shape))
        starts = 0, 0
    heads = draw(st.sampled_from([(1, 1), (4, 4), (4, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = {
        "q": rng.standard_normal((2, n, heads[0], 3)),
        "k": rng.standard_normal((2, m, heads[1], 3)),
        "v": rng.standard_normal((2, m, heads[1], 2)),
    }
    keywords = {"query_start": starts[0], "key_start": starts[1]}
    biases = [(2, heads[0], n, m), (n, 1)]
    if not isinstance(mask, ops.Windows):  # whose biases of three axes are those within windows
        biases += [None, (heads[0], 1, m)]
    if (bias := draw(st.sampled_from(biases))) is not None:
        arrays["bias"] = rng.standard_normal(bias)
    if draw(st.booleans()):
        keywords["key_mask"] = rng.random((2, m)) < 0.6
    if draw(st.booleans()):
        keywords["scale"] = 0.3
    return mask, arrays, keywords


def values_and_gradients(run, arrays, weights):
    """Outputs of a method, and the gradients of a sum over them, the log-sum-exp included."""

    def loss(arrays):
        y, lse = run(**arrays)
        finite = jnp.where(jnp.isfinite(lse), lse, 0)
        return (weights * y).sum() + (weights[..., 0] * finite).sum(), (y, lse)

    return jax.grad(loss, has_aux=True)(arrays)


def compare(problem, methods, block):
    mask, arrays, keywords = problem
    shape = (*arrays["q"].shape[:3], arrays["v"].shape[-1])
    weights = np.random.default_rng(1).standard_normal(shape)
    runs = {"naive": functools.partial(naive_attention, mask=mask, **keywords)} | {
        method: functools.partial(
            attention, mask=mask, method=method, block=block, with_logsumexp=True, **keywords
        )
        for method in methods
    }
    with jax.enable_x64(True):
        results = quick.jit(
            lambda arrays: {
                name: values_and_gradients(run, arrays, weights) for name, run in runs.items()
            }
        )(arrays)
    for method in methods:
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, 1e-9, 1e-9),
            results[method],
            results["naive"],
        )


@settings(max_examples=10, **SETTINGS)
@given(problem=problems([*LINEAR_MASKS, "neighbourhood"]), block=st.integers(8, 140))
def test_every_method_has_the_numbers_and_gradients_of_the_definition(problem, block):
    compare(problem, ("auto", "dense", "chunked"), block)


@settings(max_examples=4, **SETTINGS)
@given(problem=problems(["windows", "shifted windows"]), block=st.integers(8, 140))
def test_windows_have_the_numbers_and_gradients_of_the_definition(problem, block):
    compare(problem, ("dense", "chunked", "windowed"), block)


@pytest.mark.parametrize("kind", ["full", "sliding", "dilated", "radial"])
def test_the_last_block_may_be_short(kind):
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 37, 4, 3), "k": (2, 50, 2, 3), "v": (2, 50, 2, 2)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    compare((LINEAR_MASKS[kind], arrays, {}), ("chunked",), block=16)


def test_a_bias_within_windows_goes_with_the_places_in_them():
    """Laid out by hand: tokens 1 and 2 of every shifted window of a ring of eight, and so on."""
    mask = ops.Windows((8,), (4,), (2,))
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 8, 2, 3))
    bias = np.random.default_rng(1).standard_normal((2, 4, 4))
    spread = np.zeros((1, 2, 8, 8))
    for first in (2, 6):
        at = (first + np.arange(4)) % 8
        spread[:, :, at[:, None], at] = bias
    with jax.enable_x64(True):
        wanted, _ = naive_attention(q, k, v, mask, bias=spread)
        run = lambda method: attention(q, k, v, mask, bias=bias, method=method, block=3)
        ours = quick.jit(lambda: [run(method) for method in ("windowed", "dense", "chunked")])()
    for y in ours:
        np.testing.assert_allclose(y, wanted, 1e-9)


def test_traced_positions_change_no_number():
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 40, 2, 3))

    @quick.jit
    def both(query_start, key_start):
        places = {"query_start": query_start, "key_start": key_start, "method": "chunked"}
        run = lambda q, k, v: attention(q, k, v, ops.SlidingWindow(9, 2), block=16, **places).sum()
        return jax.value_and_grad(run, (0, 1, 2))(q, k, v)

    with jax.enable_x64(True):
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, 1e-9, 1e-12),
            both(5, -3),
            quick.jit(functools.partial(both.__wrapped__, 5, -3))(),
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_stays_close(dtype):
    """Rounded inputs; float32 to 2e-6 of the largest number, bfloat16 to two of its steps."""
    tolerance = 2e-6 if dtype == jnp.float32 else 2**-7
    arrays = np.random.default_rng(0).standard_normal((3, 2, 150, 2, 8))
    q, k, v = (jnp.asarray(x, dtype) for x in arrays)
    bias = jnp.asarray(np.random.default_rng(1).standard_normal((2, 150, 150)), dtype)
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((2, 150, 2, 8)), dtype)
    mask = ops.SlidingWindow(60, 10)
    arrays = {"q": q, "k": k, "v": v, "bias": bias}

    def outcome(run, arrays):
        loss = lambda arrays: ((y := run(**arrays)[0]) * weights.astype(y.dtype)).sum()
        return run(**arrays), jax.grad(loss)(arrays)

    run = lambda method: functools.partial(
        attention, mask=mask, method=method, block=64, with_logsumexp=True
    )
    ours = quick.jit(
        lambda arrays: {method: outcome(run(method), arrays) for method in ("dense", "chunked")}
    )(arrays)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: x.astype(jnp.float64), arrays)
        wanted = quick.jit(
            functools.partial(outcome, functools.partial(naive_attention, mask=mask))
        )(exact)
    for (y, lse), gradients in ours.values():
        assert y.dtype == dtype
        assert lse.dtype == jnp.float32
        assert all(g.dtype == dtype for g in gradients.values())

    def close(ours, theirs):
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()

    for result in ours.values():
        jax.tree.map(close, result, wanted)


def test_large_logits_do_not_overflow():
    q = jnp.full((1, 40, 1, 4), 100.0)
    run = functools.partial(attention, q, q, q, ops.Causal(), block=16, with_logsumexp=True)
    for y, lse in quick.jit(lambda: [run(method=method) for method in ("dense", "chunked")])():
        np.testing.assert_allclose(y, q, 1e-5)
        np.testing.assert_allclose(lse[0, :, 0], 20000 + np.log(1 + np.arange(40)), 1e-5)


@pytest.mark.parametrize("method", ["dense", "chunked", "windowed"])
def test_queries_that_see_nothing_get_zeros(method):
    """By their positions, and because no key of one clip is free."""
    mask = ops.Windows((6, 6), (3, 3), (1, 1))
    if method != "windowed":
        mask = mask & ops.Dilated(6, 2)
    q, k, v = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 36, 1, 4)), jnp.float32)
    free = jnp.asarray([[False] * 36, [True] * 36])

    def run(q, k, v):
        y, lse = attention(
            q, k, v, mask, key_mask=free, method=method, block=16, with_logsumexp=True
        )
        return (y**2).sum() + jnp.where(jnp.isfinite(lse), lse, 0).sum(), (y, lse)

    gradients, (y, lse) = quick.jit(jax.grad(run, (0, 1, 2), has_aux=True))(q, k, v)
    seen = np.broadcast_to(mask.visible(np.arange(36)[:, None], np.arange(36)).any(1), (2, 36))
    seen = seen & np.array([[False], [True]])
    np.testing.assert_array_equal(np.isneginf(lse[..., 0]), ~seen)
    np.testing.assert_array_equal(np.asarray(y)[~seen], 0)
    assert np.isfinite(y).all()
    assert (np.asarray(y)[seen] != 0).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[0], 0)


def test_parts_over_different_keys_merge_to_the_whole():
    """Forward and backward of "chunked" by halves of the keys, as a ring of devices does it."""
    q, k, v, dy = np.random.default_rng(0).standard_normal((4, 1, 50, 2, 3))
    mask, options = ops.Causal() & ops.Dilated(50, 2), {"block": 16}
    halves = [(0, k[:, :30], v[:, :30]), (30, k[:, 30:], v[:, 30:])]

    @quick.jit
    def by_halves(starts):
        parts = [
            chunked.forward(q, k, v, mask, key_start=start, **options)
            for start, (_, k, v) in zip(starts, halves)
        ]
        y, lse = merge(parts)
        shares = [
            chunked.backward(q, k, v, y, lse, dy, mask, key_start=start, **options)
            for start, (_, k, v) in zip(starts, halves)
        ]
        by_q, by_k, by_v, _ = zip(*shares)
        return y, lse, sum(by_q), jnp.concatenate(by_k, 1), jnp.concatenate(by_v, 1)

    def whole(q, k, v):
        y, lse = naive_attention(q, k, v, mask)
        return (y * dy).sum(), (y, lse)

    with jax.enable_x64(True):
        gradients, (y, lse) = quick.jit(jax.grad(whole, (0, 1, 2), has_aux=True))(q, k, v)
        ours = by_halves([start for start, _, _ in halves])
    for mine, theirs in zip(ours, (y, lse, *gradients), strict=True):
        np.testing.assert_allclose(mine, theirs, 1e-9, 1e-12)


def test_merging_nothing_is_nothing_and_has_a_gradient():
    y, lse = jnp.zeros((1, 2, 1, 3)), jnp.asarray([-jnp.inf, 0.0]).reshape(1, 2, 1)
    parts = [(y, jnp.full((1, 2, 1), -jnp.inf)), (y + 1, lse)]
    run = lambda parts: ((merged := merge(parts))[0].sum(), merged)
    gradients, (merged, total) = quick.jit(jax.grad(run, has_aux=True))(parts)
    np.testing.assert_array_equal(merged[0, :, 0, 0], [0, 1])
    np.testing.assert_array_equal(total, lse)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_blocks_cost_what_the_mask_leaves_and_memory_is_linear():
    n, block = 1024, 64
    mask = ops.RadialBlocks(128, 8, block, model="hunyuan") & ops.Causal()
    x = jax.ShapeDtypeStruct((1, n, 1, 8), jnp.float32)
    run = lambda q, k, v: attention(q, k, v, mask, method="chunked", block=block).sum()
    jaxpr = jax.make_jaxpr(jax.grad(run, (0, 1, 2)))(x, x, x).jaxpr
    found = list(equations(jaxpr))
    trips = [e.params["length"] for e in found if e.primitive.name == "scan"]
    visited = (mask.blocks(n, n, block, block) != ops.EMPTY).sum()
    assert visited < (n // block) ** 2 / 2
    assert sum(trips) == 2 * visited
    largest = max(variable.aval.size for e in found for variable in e.outvars)
    assert largest <= 2 * n * 8


@pytest.mark.parametrize(
    ("n", "mask", "method"),
    [
        (64, ops.Causal(), "dense"),
        (300, ops.Causal(), "chunked"),
        (64, ops.Windows((64,), (8,)), "windowed"),
    ],
)
def test_auto_takes_what_the_mask_and_the_length_ask_for(n, mask, method):
    x = jax.ShapeDtypeStruct((1, n, 1, 4), jnp.float32)
    program = lambda method: re.sub(
        r"0x\w+",
        "",
        str(jax.make_jaxpr(functools.partial(attention, mask=mask, method=method))(x, x, x)),
    )
    assert program("auto") == program(method)
    assert program("auto") != program({"dense": "chunked"}.get(method, "dense"))


def test_dropped_weights_are_made_up_for_by_the_others():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((64, 5, 2, 3)), jnp.float32) for _ in range(2))
    v = jnp.eye(5)[None, :, None].repeat(64, 0).repeat(2, 2)  # what comes out are the weights
    weights = attention(q, k, v)
    dropped = attention(q, k, v, dropout=0.25, dropout_key=jax.random.key(0))
    kept = dropped != 0
    np.testing.assert_allclose(kept.mean(), 0.75, atol=0.03)
    np.testing.assert_allclose(dropped[kept], weights[kept] / 0.75, 1e-5)
    with pytest.raises(ValueError, match=r"^method: 'chunked'"):
        attention(q, k, v, method="chunked", dropout=0.25, dropout_key=jax.random.key(0))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"q": np.ones((1, 8, 2))}, "q"),
        ({"q": np.ones((1, 0, 2, 4))}, "q"),
        ({"k": np.ones((1, 8, 2, 3))}, "k"),
        ({"k": np.ones((2, 8, 2, 4))}, "k"),
        ({"q": np.ones((1, 8, 3, 4))}, "k"),
        ({"v": np.ones((1, 7, 2, 4))}, "v"),
        ({"v": np.ones((1, 8, 1, 4))}, "v"),
        ({"key_mask": np.ones((1, 7), bool)}, "key_mask"),
        ({"bias": np.ones((1, 3, 8, 8))}, "bias"),
        ({"bias": np.ones((1, 1, 2, 8, 8))}, "bias"),
        ({"mask": ops.Windows((8,), (4,)), "bias": np.ones((2, 8, 8))}, "bias"),
        ({"mask": ops.Windows((4, 4), (2, 2))}, "shape"),
        ({"mask": ops.BlockSparse([[True]], 4)}, "table"),
        ({"block": 0}, "block"),
        ({"method": "magic"}, "method: 'magic'"),
        ({"method": "windowed"}, r"method: 'windowed' .* Causal\(\)"),
        (
            {"method": "windowed", "mask": ops.Windows((8,), (4,)), "query_start": 1},
            "method: 'windowed'",
        ),
        ({"method": "cudnn"}, r"method: 'cudnn' .* Causal\(\) .* cpu"),
        ({"method": "pallas"}, r"method: 'pallas' .* Causal\(\) .* cpu"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    x = np.ones((1, 8, 2, 4))
    with pytest.raises(ValueError, match=f"^{name}"):
        attention(**{"q": x, "k": x, "v": x, "mask": ops.Causal(), **arguments})
