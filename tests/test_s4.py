"""S4's kernel, its recurrence and its convolution against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.layers.s4 import S4
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.s4 import (
    NPLR,
    diagonal_kernel,
    fft_convolution,
    hippo_legs,
    hippo_nplr,
    s4_kernel,
    s4_recurrence,
    truncated,
    untruncated,
)
from stjax.ops.ssm import hippo_normal
from tests import quick

CHANNELS = 2


def system_of(size, seed):
    """HiPPO-LegS in two channels, everything a little off it, and random C; steps."""
    rng = np.random.default_rng(seed)
    eigenvalues, P, B = hippo_nplr(size)
    noise = lambda: rng.normal(size=(CHANNELS, size // 2, 2)) @ [1, 1j]
    near = lambda array: array * (1 + 0.1 * noise())
    system = NPLR(eigenvalues[None], near(P), near(P), near(B), noise())
    return system, np.exp(rng.uniform(np.log(1e-2), np.log(0.5), CHANNELS))


def dense(system, step):
    """A_, B_ and C of the bilinear discretisation, of both halves of the spectrum."""
    L, P, Q, B, C = (
        np.concatenate([a, a.conj()], -1)
        for a in (np.broadcast_to(a, system.C.shape) for a in system)
    )
    A = L[..., None] * np.eye(L.shape[-1]) - P[..., None] * Q.conj()[:, None]
    half, one = step[:, None, None] / 2 * A, np.eye(A.shape[-1])
    B = step[:, None, None] * B[..., None]
    return np.linalg.solve(one - half, one + half), np.linalg.solve(one - half, B), C[:, None]


def dense_kernel(system, step, length):
    """C A_^k B_ for k < length."""
    A, B, C = dense(system, step)
    taps = []
    for _ in range(length):
        taps.append((C @ B)[:, 0, 0])
        B = A @ B
    taps = np.stack(taps, -1)
    np.testing.assert_allclose(taps.imag, 0, atol=1e-9 * np.abs(taps).max())
    return taps.real


def test_hippo_legs():
    A, B = hippo_legs(3)
    expected = [[-1, 0, 0], [-(3**0.5), -2, 0], [-(5**0.5), -(15**0.5), -3]]
    np.testing.assert_allclose(A, expected)
    np.testing.assert_allclose(B, [1, 3**0.5, 5**0.5])


@pytest.mark.parametrize("size", [2, 8, 64])
def test_the_normal_plus_low_rank_form_is_hippo_legs(size):
    A, B = hippo_legs(size)
    eigenvalues, P, from_B = hippo_nplr(size)
    basis = hippo_normal(size).basis
    P = 2 * (basis @ P).real
    recovered = 2 * ((basis * eigenvalues) @ basis.conj().T).real - np.outer(P, P)
    np.testing.assert_allclose(recovered, A, atol=1e-11 * np.abs(A).max())
    np.testing.assert_allclose(2 * (basis @ from_B).real, B, 1e-11)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 300),
    half=st.integers(1, 4),
    start=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernel_recurrence_and_dense_matrices_give_the_same_numbers(length, half, start, seed):
    system, step = system_of(2 * half, seed)
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(3, length, CHANNELS))
    initial = rng.normal(size=(3, CHANNELS, half, 2)) @ [1, 1j] if start else None

    @quick.jit
    def run(system, step, u, initial):
        from_kernel = truncated(system, step, length)
        kernel = s4_kernel(from_kernel, step, length)
        return {
            "kernel": kernel,
            "convolved": fft_convolution(u, kernel),
            "recurrent": s4_recurrence(system, step, u)[0],
            "going on": s4_recurrence(system, step, u, initial),
            "C": untruncated(from_kernel, step, length).C,
        }

    with jax.enable_x64(True):
        ours = run(system, step, u, initial)
    close = lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs, 1e-7, 1e-8 * np.abs(theirs).max()
    )
    kernel = dense_kernel(system, step, length)
    close(ours["kernel"], kernel)
    y = np.zeros_like(u)
    for sample, channel in np.ndindex(3, CHANNELS):
        y[sample, :, channel] = np.convolve(u[sample, :, channel], kernel[channel])[:length]
    close(ours["convolved"], y)
    close(ours["recurrent"], y)
    close(ours["C"], system.C)

    A, B, C = dense(system, step)
    state = np.zeros((3, CHANNELS, 2 * half))
    if start:
        state = np.concatenate([initial, initial.conj()], -1)
    outputs = []
    for now in np.moveaxis(u, 1, 0):
        state = np.einsum("cij,bcj->bci", A, state) + B[..., 0] * now[..., None]
        outputs.append(np.sum(C[:, 0] * state, -1).real)
    y, last = ours["going on"]
    close(y, np.stack(outputs, 1))
    close(last, state[..., :half])


@settings(max_examples=6, deadline=None, derandomize=True)
@given(length=st.integers(1, 60), half=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_gradients_of_the_kernel_are_those_of_the_recurrence(length, half, seed):
    """The recurrence's response to an impulse is the kernel; its C is not truncated."""
    system, step = system_of(2 * half, seed)
    cotangent = np.random.default_rng(seed).normal(size=(CHANNELS, length))
    impulse = np.zeros((1, length, CHANNELS))
    impulse[:, 0] = 1

    def by_kernel(system, step):
        return jnp.sum(cotangent * s4_kernel(truncated(system, step, length), step, length))

    def by_recurrence(system, step):
        return jnp.sum(cotangent * s4_recurrence(system, step, impulse)[0][0].T)

    run = lambda *args: [jax.grad(f, (0, 1))(*args) for f in (by_kernel, by_recurrence)]
    with jax.enable_x64(True):
        ours, theirs = quick.jit(run)(system, step)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-7 * np.abs(b).max()), ours, theirs
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(length=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_the_diagonal_kernel_is_the_impulse_response_of_its_recurrence(length, seed):
    rng = np.random.default_rng(seed)
    exponents = -rng.uniform(0.01, 1, (CHANNELS, 3)) + 1j * rng.normal(size=(CHANNELS, 3))
    weights, cotangent = rng.normal(size=(CHANNELS, 3)) + 1j, rng.normal(size=(CHANNELS, length))

    def by_recurrence(exponents, weights):
        impulse = jnp.zeros((length, CHANNELS, 3), complex).at[0].set(weights)
        states, _ = linear_recurrence(jnp.exp(exponents), impulse, method="sequential", axis=0)
        return 2 * jnp.sum(states, -1).real.T

    def run(exponents, weights):
        by_powers = lambda *args: diagonal_kernel(*args, length)
        out = []
        for kernel in (by_powers, by_recurrence):
            loss = lambda *args, kernel=kernel: jnp.sum(cotangent * kernel(*args))
            out.append((kernel(exponents, weights), jax.grad(loss, (0, 1))(exponents, weights)))
        return out

    with jax.enable_x64(True):
        ours, theirs = quick.jit(run)(exponents, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9 * np.abs(b).max()), ours, theirs
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(length=st.integers(1, 300), taps=st.integers(1, 350))
def test_the_convolution_of_any_lengths(length, taps):
    rng = np.random.default_rng(0)
    u, kernel = rng.normal(size=(2, length, 2)), rng.normal(size=(2, taps))
    with jax.enable_x64(True):
        y = quick.jit(fft_convolution)(u, kernel)
    for sample, result in zip(u, y):
        for channel in range(2):
            expected = np.convolve(sample[:, channel], kernel[channel])[:length]
            np.testing.assert_allclose(result[:, channel], expected, 1e-9, 1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 8e-3)])
def test_the_convolution_in_lower_precisions(dtype, tolerance):
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(1, 100, 1)), dtype)
    kernel = np.float32(0.9 ** np.arange(100))[None]
    y = quick.jit(fft_convolution)(u, kernel)
    assert y.dtype == dtype
    expected = np.convolve(np.float64(u[0, :, 0]), kernel[0])[:100]
    error = np.abs(np.float64(y[0, :, 0]) - expected).max()
    assert error < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("length", [1024, 1023])
def test_float32_serves_a_kernel_of_the_published_size(length):
    """64 numbers of state and steps from 1e-3 to 0.1."""
    system, _ = system_of(64, 0)
    step = np.array([1e-3, 0.1])
    kernel = quick.jit(lambda *args: s4_kernel(*args, length))
    ours = kernel(jax.tree.map(np.complex64, system), np.float32(step))
    with jax.enable_x64(True):
        exact = kernel(system, step)
    for a, b in zip(ours, exact):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("length", [9, 20])
def test_a_clip_whole_in_pieces_or_frame_by_frame(length):
    """Also one that is longer than the layer's length."""
    layer = S4(features=3, length=12, state_size=4, param_dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(2, length, 3))

    def run(x):
        variables = layer.init(jax.random.key(0), x)

        def fed(*ends):
            state, outputs = None, []
            for piece in jnp.split(x, ends, axis=1):
                y, state = layer.apply(variables, piece, state)
                outputs.append(y)
            return jnp.concatenate(outputs, 1), state

        return fed(), fed(1), fed(4, 5)

    with jax.enable_x64(True):
        whole, *others = quick.jit(run)(x)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9), other, whole)


def test_the_state_costs_nothing_where_nobody_asks_for_it():
    layer, x = S4(features=2, length=50, state_size=4), jnp.ones((1, 50, 2))
    variables = quick.variables(layer, x)
    loops = lambda run: jax.jit(run).lower(variables).compile().as_text().count(" while(")
    with_state = loops(lambda variables: layer.apply(variables, x))
    assert loops(lambda variables: layer.apply(variables, x)[0]) < with_state


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda: fft_convolution(np.ones((2, 3)), np.ones((3, 4))), "u"),
        (lambda: fft_convolution(np.ones((2, 5, 3)), np.ones((5, 3))), "kernel"),
        (lambda: hippo_nplr(5), "size"),
        (lambda: s4_kernel(*system_of(4, 0), 0), "length"),
        (lambda: s4_kernel(system_of(4, 0)[0], np.ones(3), 5), "step"),
        (lambda: s4_recurrence(*system_of(4, 0), np.ones((1, 5, 3))), "u"),
        (
            lambda: s4_recurrence(*system_of(4, 0), np.ones((1, 5, 2)), np.ones((1, 2, 4))),
            "initial",
        ),
    ],
)
def test_what_does_not_fit_is_named(run, name):
    with pytest.raises(ValueError, match=f"^{name}:"):
        run()
