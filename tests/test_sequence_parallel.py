"""Time cut over eight simulated devices: the numbers of one device, and little that travels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments import convs5
from stjax.ops import sequence_parallel
from stjax.ops.attention import Causal, FrameCausal, Full, SlidingWindow, attention
from stjax.ops.conv import conv
from stjax.ops.recurrence import linear_recurrence
from stjax.train import flops, hlo
from stjax.train import mesh as meshes
from stjax.train.cli import main
from tests import quick

ring_attention = functools.partial(attention, over_time=True)

ONE, TWO, FOUR, EIGHT = (meshes.make({"sequence": ways}) for ways in (1, 2, 4, 8))
BOTH = meshes.make({"data": 2, "sequence": 4})


def under(mesh, function):
    """`function` on the mesh's devices, traced as the engine traces a step."""
    run = quick.jit(traced(mesh, function))
    return lambda *args: run(*jax.device_put(args, NamedSharding(mesh, PartitionSpec())))


def traced(mesh, function):
    def run(*args):
        with meshes.ambient(mesh):
            return function(*args)

    return run


def array(seed, shape, dtype=jnp.float32):
    """Entries within the unit disc, so that they serve as decays too."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.7, 0.7, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.uniform(-0.7, 0.7, shape)
    return jnp.asarray(values, dtype)


def values_and_gradients(function):
    """Of a function of arrays to arrays, under a loss that weighs every output differently."""

    def loss(*arguments):
        out = function(*arguments)
        leaves = jax.tree.leaves(out)
        weight = lambda x: jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
        return sum(jnp.sum(jnp.square(jnp.abs(x)) * weight(x)) for x in leaves), out

    return lambda *arguments: jax.grad(loss, range(len(arguments)), has_aux=True)(*arguments)


def assert_close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(x, np.complex128) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def recurrence(**options):
    return values_and_gradients(lambda *arguments: linear_recurrence(*arguments, **options))


REAL, COMPLEX = (jnp.float32, jnp.float64), (jnp.complex64, jnp.complex128)


@pytest.mark.parametrize(
    ("mesh", "decay", "inputs", "initial", "options"),
    [
        (TWO, (REAL, (2, 6, 3)), (REAL, (2, 6, 3)), False, {}),
        (TWO, (COMPLEX, (3,)), (COMPLEX, (2, 10, 3)), True, {"reverse": True}),
        (FOUR, (COMPLEX, (2, 12, 3)), (REAL, (2, 12, 3)), True, {}),
        (FOUR, (REAL, (1, 1, 3)), (COMPLEX, (2, 8, 3)), False, {"reverse": True}),
        (FOUR, (REAL, (3, 20)), (REAL, (1, 3, 20)), True, {"axis": -1, "method": "associative"}),
        (EIGHT, (COMPLEX, (3,)), (COMPLEX, (2, 24, 3)), True, {"method": "chunked", "chunk": 2}),
        (EIGHT, (REAL, (2, 8, 3)), (REAL, (2, 8, 3)), True, {"reverse": True}),
        (BOTH, (COMPLEX, (3,)), (COMPLEX, (4, 12, 2, 3)), True, {}),
        (BOTH, (REAL, (4, 8, 3)), (REAL, (4, 8, 3)), True, {"reverse": True}),
    ],
)
def test_a_recurrence_has_the_numbers_of_one_device(mesh, decay, inputs, initial, options):
    axis = options.get("axis", 1) % len(inputs[1])
    state = decay[0] if decay[0] == COMPLEX else inputs[0], np.delete(inputs[1], axis)
    parts = (decay, inputs, state) if initial else (decay, inputs)
    for wide, tolerance in ((False, 1e-5), (True, 1e-9)):
        with jax.enable_x64(wide):
            arguments = [array(k, shape, dtypes[wide]) for k, (dtypes, shape) in enumerate(parts)]
            alone = under(ONE, recurrence(**options))(*arguments)
            assert_close(under(mesh, recurrence(**options))(*arguments), alone, tolerance)


@pytest.mark.parametrize("shape", [(3,), (2, 16, 3)], ids=["constant", "varying"])
@pytest.mark.parametrize("decay", [0.0, 1e-30])
def test_products_that_underflow_give_zeros(shape, decay):
    arguments = jnp.full(shape, decay), array(0, (2, 16, 3)), array(1, (2, 3))
    alone = under(ONE, recurrence())(*arguments)
    assert_close(under(FOUR, recurrence())(*arguments), alone, 1e-5)


def test_bfloat16_comes_back():
    arguments = [array(k, s, jnp.bfloat16) for k, s in enumerate([(3,), (2, 8, 3), (2, 3)])]
    ours = under(FOUR, recurrence())(*arguments)
    wide = under(ONE, recurrence())(*(x.astype(jnp.float32) for x in arguments))
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(jax.tree.map(lambda x: x.astype(jnp.float32), ours), wide, 0.03)


def travelling(mesh, function, *arguments):
    """Collectives of the function's program, by kind, for arguments that lie cut on the mesh."""
    timed, timeless = PartitionSpec("data", "sequence"), PartitionSpec("data")
    place = lambda x: jax.device_put(x, NamedSharding(mesh, timed if x.ndim > 2 else timeless))
    compiled = jax.jit(traced(mesh, function)).lower(*map(place, arguments)).compile()
    found = hlo.totals(hlo.collectives(compiled.as_text()), mesh.shape)
    assert {axes for _, axes in found} <= {("sequence",)}
    return {kind: total for (kind, _), total in found.items()}


def test_what_travels_does_not_depend_on_length_and_leaves_the_batch_where_it_is():
    def arguments(length):
        shape = (4, length, 8)
        return array(0, shape), array(1, shape), array(2, (4, 8))

    forward = lambda *arguments: linear_recurrence(*arguments)
    state = 4 * 8 * 4  # bytes
    for function, most in ((forward, 8 * state), (recurrence(), 16 * state)):
        short, long = (travelling(FOUR, function, *arguments(n)) for n in (16, 256))
        assert short == long
        assert 0 < sum(size for _, size in long.values()) <= most
    count, size = long["collective-permute"]
    assert travelling(BOTH, function, *arguments(256))["collective-permute"] == (count, size / 2)


def test_a_scan_over_space_is_not_cut():
    arguments = array(0, (3,)), array(1, (2, 7, 3))
    scan = lambda *arguments: linear_recurrence(*arguments, over_time=False)
    assert_close(under(FOUR, scan)(*arguments), under(ONE, scan)(*arguments), 1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_carries_may_be_matrices(reverse):
    """S -> P S + L, as in a delta rule: eight devices, each with one such step."""
    arguments = array(0, (8, 3, 3)), array(1, (8, 3, 2)), array(2, (3, 2))

    def local(product, last, initial):
        carry, final = sequence_parallel.exchange_carries(
            product[0], last[0], initial, reverse=reverse, apply=jnp.matmul
        )
        return carry[None], final

    def naive(products, lasts, initial):
        step = lambda state, now: (now[0] @ state + now[1], state)
        final, carries = jax.lax.scan(step, initial, (products, lasts), reverse=reverse)
        return carries, final

    cut, whole = PartitionSpec("sequence"), PartitionSpec()
    shared = sequence_parallel.over_devices(
        EIGHT.abstract_mesh, local, (cut, cut, whole), (cut, whole)
    )
    alone = under(ONE, values_and_gradients(naive))(*arguments)
    assert_close(under(EIGHT, values_and_gradients(shared))(*arguments), alone, 1e-5)


def attention(mask):
    return values_and_gradients(lambda *qkv: ring_attention(*qkv, mask, block=4))


@pytest.mark.parametrize(
    ("mesh", "mask", "heads"),
    [
        (FOUR, Full(), (2, 2)),
        (EIGHT, Causal(), (2, 2)),
        (FOUR, FrameCausal(4), (4, 2)),
        (TWO, SlidingWindow(3, 2), (2, 1)),
        (BOTH, Causal(), (4, 2)),
    ],
)
def test_a_ring_has_the_numbers_of_one_device(mesh, mask, heads):
    q = array(0, (2, 24, heads[0], 4))
    k, v = (array(seed, (2, 24, heads[1], width)) for seed, width in ((1, 4), (2, 3)))
    alone = under(ONE, attention(mask))(4 * q, k, v)
    assert_close(under(mesh, attention(mask))(4 * q, k, v), alone, 1e-5)


def test_a_ring_goes_no_further_than_the_mask_reaches():
    qkv = [array(seed, (2, 32, 2, 4)) for seed in range(3)]
    permutes = lambda mask: travelling(
        EIGHT, lambda *qkv: ring_attention(*qkv, mask), *qkv
    ).get("collective-permute", (0, 0))[0]
    assert permutes(Full()) == 2 * 7  # keys and values, once from every other device
    assert permutes(SlidingWindow(0, 0)) == 0


def test_what_devices_compute_is_counted_once_for_each():
    qkv = [array(seed, (2, 16, 2, 4)) for seed in range(3)]
    ring = lambda *qkv: ring_attention(*qkv, block=4)
    counts = [flops.count(traced(mesh, ring), *qkv) for mesh in (ONE, FOUR, BOTH)]
    assert counts == [2 * 2 * 2 * 16 * 16 * (4 + 4)] * 3


def test_a_ring_in_bfloat16():
    qkv = [array(seed, (2, 16, 2, 4), jnp.bfloat16) for seed in range(3)]
    ours = under(FOUR, attention(Causal()))(*qkv)
    wide = under(ONE, attention(Causal()))(*(x.astype(jnp.float32) for x in qkv))
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    assert_close(jax.tree.map(lambda x: x.astype(jnp.float32), ours), wide, 0.03)


def test_what_does_not_divide_is_named():
    message = r"^inputs: time, axis 1 of \(2, 10, 3\).*10 steps.*4 devices.*'sequence'"
    with pytest.raises(ValueError, match=message):
        under(FOUR, linear_recurrence)(array(0, (3,)), array(1, (2, 10, 3)))
    q, short = array(0, (2, 16, 2, 4)), array(0, (2, 10, 2, 4))
    for name, arguments in (("q", (short, q, q)), ("k", (q, short, short))):
        with pytest.raises(ValueError, match=f"^{name}: time, axis 1 of"):
            under(FOUR, ring_attention)(*arguments)


@pytest.mark.parametrize(("mesh", "steps"), [(FOUR, 8), (BOTH, 8), (FOUR, 6)])
def test_frames_have_the_numbers_of_one_device(mesh, steps):
    """Also where time does not divide, and so is not cut."""
    x, kernel = array(0, (4, steps, 3, 3, 2)), array(1, (18, 5))

    def frames(x, kernel):
        by_frame = lambda x: (x.reshape(len(x), -1) @ kernel, jnp.tanh(x))
        return sequence_parallel.over_frames(by_frame, x)

    alone = under(ONE, values_and_gradients(frames))(x, kernel)
    assert alone[1][0].shape == (4, steps, 5)
    assert_close(under(mesh, values_and_gradients(frames))(x, kernel), alone, 1e-5)


def test_frames_are_merged_where_they_lie():
    convolve = lambda x, kernel: sequence_parallel.over_frames(lambda x: conv(x, kernel), x)
    function = lambda x: convolve(x, array(1, (3, 3, 2, 5)))
    for mesh in (FOUR, BOTH):
        assert travelling(mesh, function, array(0, (4, 8, 6, 6, 2))) == {}


def test_time_is_whole_without_such_a_mesh():
    assert sequence_parallel.ways() == 1
    with meshes.ambient(meshes.make({"data": 8})):
        assert sequence_parallel.ways() == 1
    with jax.set_mesh(BOTH):
        assert sequence_parallel.ways() == 4


def test_a_clip_that_does_not_divide_is_refused_in_the_configs_words(capsys):
    with pytest.raises(SystemExit):
        main(convs5.experiment, convs5.convs5, ["plan", "--config.run.mesh.sequence=4"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "9 frames" in line
    assert "data.context + data.horizon - 1 (5 + 5 - 1)" in line
