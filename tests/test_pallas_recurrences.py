"""The recurrences' kernels: interpreted, held to the definitions; lowered for GPU and TPU."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend import core

from stjax.ops.pallas import diagonal, selective
from stjax.ops.recurrence import linear_recurrence, naive_linear_recurrence
from tests import quick

PLATFORMS = {"gpu": "cuda", "tpu": "tpu"}
on_an_accelerator = pytest.mark.skipif(
    jax.default_backend() == "cpu", reason="the kernels need a gpu or tpu"
)
# Tiny blocks, so that tiny cases have several of everything, and tails.
small_diagonal = mock.patch.multiple(
    diagonal,
    GPU_FEATURES=2,
    GPU_AHEAD=2,
    GPU_PROGRAMS=40,
    GPU_SHORTEST=3,
    GPU_FEWEST=2,
    TPU_STEPS=4,
    TPU_ROWS=2,
    LANES=4,
)
small_selective = mock.patch.multiple(
    selective, GPU_CHUNK=2, GPU_STATE=8, GPU_FEWEST_CHANNELS=2, TPU_CHUNK=2, TPU_STEPS=4, LANES=2
)


def kernel_recurrence(decay, inputs, initial=None, *, target, axis=1, reverse=False, run=True):
    """`linear_recurrence` by kernel, interpreted; or as it is compiled, if `run` is false."""
    decay = decay.reshape((1,) * (inputs.ndim - decay.ndim) + decay.shape)
    return diagonal.linear_recurrence(
        decay, inputs, initial, axis, reverse=reverse, target=target, interpret=run
    )


def kernel_scan(*arguments, target, reverse=False, run=True):
    return selective.selective_scan(*arguments, reverse=reverse, target=target, interpret=run)


def naive_selective_scan(x, step, rates, B, C, initial, *, reverse=False):
    """h_t = exp(step_t rates) h_{t-1} + step_t x_t B_t, y_t = <C_t, h_t>."""
    channels = x.shape[2] // B.shape[2]

    def take(state, now):
        x, step, B, C = now
        B, C = jnp.repeat(B, channels, 1), jnp.repeat(C, channels, 1)
        state = jnp.exp(step[..., None] * rates) * state + (step * x)[..., None] * B
        return state, (C * state).sum(-1)

    now = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), (x, step, B, C))
    last, y = lax.scan(take, initial, now, reverse=reverse)
    return jnp.moveaxis(y, 0, 1), last


def values_and_gradients(run, arguments):
    """Both outputs of `run`, and gradients of a random combination of them."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(out.shape) for out in jax.eval_shape(run, *arguments)]

    def loss(*arguments):
        outs = run(*arguments)
        # The real part of squares: complex numbers have gradients in both of their parts.
        return sum((w * (out * out).real).sum() for w, out in zip(weights, outs)), outs

    return jax.grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)


def assert_alike(ours, theirs, tolerance):
    """To `tolerance` of each array's largest magnitude, or of one."""

    def alike(ours, theirs):
        ours, theirs = (np.asarray(a, np.result_type(a.dtype, np.float32)) for a in (ours, theirs))
        scale = max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours / scale, theirs / scale, 0, tolerance)

    jax.tree.map(alike, ours, theirs)


def random_recurrence(seed, shapes, kind="float"):
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(shape) for shape in shapes]
    if kind == "complex":
        values = [value + 1j * rng.standard_normal(value.shape) for value in values]
    values[0] *= np.tanh(np.abs(values[0])) / np.abs(values[0])
    return values


def random_scan(seed, b, t, d, g, n):
    rng = np.random.default_rng(seed)
    shapes = (b, t, d), (b, t, d), (d, n), (b, t, g, n), (b, t, g, n), (b, d, n)
    x, step, rates, B, C, initial = [rng.standard_normal(shape) for shape in shapes]
    return [x, np.exp(step), -np.exp(rates), B, C, initial]


@st.composite
def recurrences(draw):
    axis, shape = draw(st.integers(0, 2)), [2, draw(st.integers(1, 5))]
    state = tuple(shape)
    shape.insert(axis, draw(st.integers(1, 20)))
    shapes = [[draw(st.sampled_from([1, length])) for length in shape], shape]
    shapes += [state] * draw(st.booleans())
    kind = draw(st.sampled_from(["float", "complex"]))
    arguments = random_recurrence(draw(st.integers(0, 2**32 - 1)), shapes, kind)
    return arguments, {"axis": axis, "reverse": draw(st.booleans())}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=recurrences())
def test_the_recurrence_has_the_numbers_and_gradients_of_the_definition(problem):
    arguments, options = problem
    runs = [functools.partial(naive_linear_recurrence, **options)]
    runs += [functools.partial(kernel_recurrence, target=target, **options) for target in PLATFORMS]
    with jax.enable_x64(True), small_diagonal:
        expected, *ours = quick.jit(
            lambda arguments: [values_and_gradients(run, arguments) for run in runs]
        )(arguments)
    for result in ours:
        assert_alike(result, expected, 1e-10)


@pytest.mark.parametrize("target", PLATFORMS)
def test_blocks_of_full_size_have_the_numbers_of_the_loop(target):
    arguments = random_recurrence(0, [(1, 301, 130), (1, 301, 130), (1, 130)])
    arguments = [jnp.asarray(array, jnp.float32) for array in arguments]
    ours, expected = quick.jit(
        lambda arguments: [
            values_and_gradients(run, arguments)
            for run in (
                functools.partial(kernel_recurrence, target=target),
                functools.partial(linear_recurrence, method="sequential"),
            )
        ]
    )(arguments)
    assert_alike(ours, expected, 1e-5)


@pytest.mark.parametrize("target", PLATFORMS)
def test_the_recurrence_can_be_differentiated_twice(target):
    arguments = random_recurrence(1, [(1, 5, 2), (2, 5, 2), (2, 2)])

    def gradient(run):
        def length(*arguments):
            return sum((g * g).sum() for g in values_and_gradients(run, arguments)[0])

        return jax.grad(length, (0, 1, 2))

    with jax.enable_x64(True), small_diagonal:
        ours, expected = quick.jit(
            lambda arguments: [
                gradient(run)(*arguments)
                for run in (
                    functools.partial(kernel_recurrence, target=target),
                    naive_linear_recurrence,
                )
            ]
        )(arguments)
    assert_alike(ours, expected, 1e-10)


@st.composite
def scans(draw):
    size = [draw(st.integers(1, 2)), draw(st.integers(1, 13))]
    groups = draw(st.integers(1, 2))
    size += [groups * draw(st.integers(1, 5)), groups, draw(st.integers(1, 5))]
    return random_scan(draw(st.integers(0, 2**32 - 1)), *size), draw(st.booleans())


@settings(max_examples=5, deadline=None, derandomize=True)
@given(problem=scans())
def test_the_selective_scan_has_the_numbers_and_gradients_of_the_definition(problem):
    arguments, reverse = problem
    runs = [naive_selective_scan]
    runs += [functools.partial(kernel_scan, target=target) for target in PLATFORMS]
    with jax.enable_x64(True), small_selective:
        expected, *ours = quick.jit(
            lambda arguments: [
                values_and_gradients(functools.partial(run, reverse=reverse), arguments)
                for run in runs
            ]
        )(arguments)
    for result in ours:
        assert_alike(result, expected, 1e-10)


@pytest.mark.parametrize("target", PLATFORMS)
def test_scan_blocks_of_full_size_have_the_numbers_of_the_definition(target):
    arguments = [jnp.asarray(array, jnp.float32) for array in random_scan(0, 1, 139, 34, 1, 16)]
    ours, expected = quick.jit(
        lambda arguments: [
            values_and_gradients(run, arguments)
            for run in (functools.partial(kernel_scan, target=target), naive_selective_scan)
        ]
    )(arguments)
    assert_alike(ours, expected, 1e-5)


@pytest.mark.parametrize("target", PLATFORMS)
def test_bfloat16_keeps_its_state_in_float32(target):
    """Two thousand ones: a state in bfloat16 would stop at 256."""
    ones = jnp.ones((1, 2000, 1), jnp.bfloat16)
    with mock.patch.object(diagonal, "GPU_FEWEST", 1000):
        _, last = kernel_recurrence(ones[:, :1], ones, target=target)
    assert last.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(last[0, 0]), 2000, rtol=2**-8)
    none = jnp.zeros((1, 1))
    with small_selective:
        of_one = ones[..., None]
        y, last = kernel_scan(ones, ones, none, of_one, of_one, none[None], target=target)
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(float(last[0, 0, 0]), 2000)
    np.testing.assert_allclose(float(y[0, -1, 0]), 2000, rtol=2**-8)


@pytest.mark.parametrize("target", PLATFORMS)
def test_bfloat16_gradients_are_those_of_float32_rounded(target):
    half = [jnp.asarray(a, jnp.bfloat16) for a in random_recurrence(2, [(1, 1, 3), (2, 9, 3)])]
    scan = [jnp.asarray(a, jnp.bfloat16) for a in random_scan(2, 1, 5, 2, 1, 3)]

    def run(arguments, dtype):
        cast = lambda arrays: [array.astype(dtype) for array in arrays]
        return [
            values_and_gradients(functools.partial(kernel_recurrence, target=target), cast(half)),
            values_and_gradients(functools.partial(kernel_scan, target=target), cast(scan)),
        ]

    with small_diagonal, small_selective:
        ours, expected = quick.jit(
            lambda arguments: [run(arguments, dtype) for dtype in (jnp.bfloat16, jnp.float32)]
        )((half, scan))
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    # Of what is rounded to 8 bits, the outputs, their cotangents and states between the two.
    assert_alike(ours, expected, 2e-2)


@pytest.mark.parametrize("target", PLATFORMS)
def test_decays_that_underflow_give_zeros_and_no_nan(target):
    tiny = [np.full((1, 1, 2), 1e-30), np.ones((1, 6, 2)), np.ones((1, 2))]
    x, step, rates, B, C, initial = random_scan(3, 1, 6, 2, 1, 2)
    scan = [x, step, rates * 1e4, B, C, initial]
    single = lambda arrays: [jnp.asarray(array, jnp.float32) for array in arrays]
    with small_diagonal, small_selective:
        (gradients, (states, _)), (scan_gradients, (_, last)) = quick.jit(
            lambda tiny, scan: [
                values_and_gradients(functools.partial(kernel_recurrence, target=target), tiny),
                values_and_gradients(functools.partial(kernel_scan, target=target), scan),
            ]
        )(single(tiny), single(scan))
    np.testing.assert_allclose(states, 1)
    np.testing.assert_allclose(gradients[2], 0, atol=1e-20)
    np.testing.assert_allclose(last, (step * x)[:, -1, :, None] * B[:, -1], 1e-5)
    np.testing.assert_array_equal(scan_gradients[5], 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, scan_gradients)))


def outside_kernels(jaxpr):
    """The equations of `jaxpr` and of all within it but kernels."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for inner in core.jaxprs_in_params(equation.params):
                yield from outside_kernels(inner)


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_constant_decay_reaches_the_kernel_without_a_time_axis(target):
    decay, inputs = jnp.ones(5), jnp.ones((2, 64, 7, 3, 5))
    run = functools.partial(kernel_recurrence, target=target, run=False)
    equations = outside_kernels(jax.make_jaxpr(run)(decay, inputs).jaxpr)
    (kernel,) = [each for each in equations if each.primitive.name == "pallas_call"]
    of_decay, of_inputs, _ = [variable.aval.size for variable in kernel.invars]
    assert of_inputs >= inputs.size
    assert of_decay <= 256


@pytest.mark.parametrize("target", PLATFORMS)
def test_the_scan_never_has_all_its_states_in_memory(target):
    size = b, t, d, _, n = 1, 256, 256, 1, 16
    arguments = [jnp.asarray(array, jnp.float32) for array in random_scan(0, *size)]
    run = functools.partial(kernel_scan, target=target, run=False)
    jaxpr = jax.make_jaxpr(functools.partial(values_and_gradients, run))(arguments).jaxpr
    sizes = [array.aval.size for each in outside_kernels(jaxpr) for array in each.outvars]
    assert max(sizes) <= b * t * d * n // 8


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_recurrence_lowers(target, dtype):
    shapes = [(1, 300, 3), (1, 300, 3), (1, 3)]
    for decay in (shapes[0], (1, 1, 3)):
        arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in [decay, *shapes[1:]]]
        run = functools.partial(kernel_recurrence, target=target, run=False)
        lower(functools.partial(values_and_gradients, run), arguments, target)


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_scan_lowers(target, dtype):
    arguments = [
        jax.ShapeDtypeStruct(array.shape, dtype) for array in random_scan(0, 2, 130, 6, 2, 3)
    ]
    run = functools.partial(kernel_scan, target=target, run=False)
    lower(functools.partial(values_and_gradients, run), arguments, target)
    lower(
        lambda arguments: jax.vmap(run)(*arguments),
        [jax.ShapeDtypeStruct((2, *array.shape), dtype) for array in arguments],
        target,
    )


def lower(run, arguments, target):
    text = jax.jit(run).trace(arguments).lower(lowering_platforms=(PLATFORMS[target],)).as_text()
    assert {"gpu": "triton", "tpu": "tpu_custom_call"}[target] in text


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there are kernels for this backend")
def test_a_cpu_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^method: 'pallas' needs a gpu or tpu; .* is cpu"):
        linear_recurrence(jnp.ones(2), jnp.ones((1, 3, 2)), method="pallas")


@on_an_accelerator
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_the_recurrence_on_an_accelerator(dtype, reverse, constant):
    kind = "complex" if dtype == "complex64" else "float"
    shapes = [(3, 1 if constant else 1037, 200), (3, 1037, 200), (3, 200)]
    arguments = [jnp.asarray(array, dtype) for array in random_recurrence(0, shapes, kind)]
    ours, expected = (
        jax.jit(
            lambda arguments, method=method: values_and_gradients(
                functools.partial(linear_recurrence, method=method, reverse=reverse), arguments
            )
        )(arguments)
        for method in ("pallas", "sequential")
    )
    assert_alike(ours, expected, 5e-2 if dtype == "bfloat16" else 1e-4)


@on_an_accelerator
@pytest.mark.parametrize("size", [(2, 1037, 200, 1, 16), (1, 300, 48, 2, 3), (2, 37, 64, 1, 64)])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_scan_on_an_accelerator(size, reverse):
    arguments = [jnp.asarray(array, jnp.float32) for array in random_scan(0, *size)]
    kernel = functools.partial(kernel_scan, target=jax.default_backend(), run=False)
    ours, expected = (
        jax.jit(
            lambda arguments, run=run: values_and_gradients(
                functools.partial(run, reverse=reverse), arguments
            )
        )(arguments)
        for run in (kernel, naive_selective_scan)
    )
    assert_alike(ours, expected, 1e-4)
