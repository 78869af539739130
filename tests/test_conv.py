"""Convolutions: each operation, computed in two ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from stjax.ops.conv import (
    conv,
    depthwise_conv,
    grouped_conv,
    kernel_gradient,
    local_mean,
    transposed_conv,
)
from stjax.train import flops
from tests import quick

GRIDS = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


@functools.partial(quick.jit, static_argnums=3)
def depthwise(x, kernel, cotangent, dilation):
    def by(method):
        out, pullback = jax.vjp(lambda *args: depthwise_conv(*args, dilation, method), x, kernel)
        return out, *pullback(cotangent)

    return by("shifted"), by("grouped"), by("auto"), by("banded")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(grid=GRIDS, window=st.permutations([1, 3, 5]), dilation=st.integers(1, 3))
def test_shifted_products_equal_the_grouped_convolution(grid, window, dilation):
    with jax.enable_x64(True):
        x, cotangent, kernel = draw((2, *grid, 3), (2, *grid, 3), (*window[: len(grid)], 3))
        shifted, grouped, auto, banded = depthwise(x, kernel, cotangent, dilation)
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12)
        jax.tree.map(close, shifted, grouped)
        jax.tree.map(close, shifted, banded)
        jax.tree.map(np.testing.assert_array_equal, auto, shifted)


def test_large_kernels_on_small_maps_are_bands():
    with jax.enable_x64(True):
        x, kernel = draw((2, 6, 4, 3), (21, 5, 3))
        ways = quick.jit(
            lambda x, kernel: [depthwise_conv(x, kernel, 1, way) for way in ("auto", "grouped")]
        )
        np.testing.assert_allclose(*ways(x, kernel), atol=1e-12)
        text = str(jax.make_jaxpr(depthwise_conv)(x, kernel))
        assert text.count("dot_general") == 2  # the band's matrices and the product with them


@functools.partial(quick.jit, static_argnums=3)
def dense(x, kernel, cotangent, dilation):
    grid = "DHW"[3 - (x.ndim - 2) :]
    reference = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1,) * len(grid),
        padding="SAME",
        rhs_dilation=(dilation,) * len(grid),
        dimension_numbers=(f"N{grid}C", f"{grid}IO", f"N{grid}C"),
    )

    def by(run):
        out, pullback = jax.vjp(run, x, kernel)
        return out, *pullback(cotangent)

    return by(functools.partial(conv, dilation=dilation)), by(reference)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(grid=GRIDS, window=st.permutations([1, 2, 3]), dilation=st.integers(1, 3))
def test_convolutions_of_one_to_three_axes(grid, window, dilation):
    with jax.enable_x64(True):
        x, cotangent, kernel = draw((2, *grid, 3), (2, *grid, 2), (*window[: len(grid)], 3, 2))
        ours, reference = dense(x, kernel, cotangent, dilation)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, reference)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (5, 25, 40)])  # the latter in three pieces
def test_the_gradient_of_a_kernel_alone(shape):
    window = (3,) * (len(shape) - 1)
    x, cotangent, kernel = draw((*shape, 3), (*shape, 2), (*window, 3, 2))
    with jax.enable_x64(True):
        gradient = quick.jit(functools.partial(kernel_gradient, conv))(x, cotangent, kernel)
        _, _, expected = dense(x, kernel, cotangent, 1)[0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("grid", "groups"), [((5,), 1), ((5, 4), 3), ((3, 4, 2), 2)])
def test_groups_are_convolved_apart(grid, groups):
    """Against the dense convolution by a kernel that is zero between groups."""
    inputs, outputs = 2 * groups, 3 * groups
    between = np.kron(np.eye(groups), np.ones((2, 3)))

    def block_diagonal(x, kernel):
        return conv(x, jnp.tile(kernel, (1, groups, 1)[-kernel.ndim :]) * between)

    @quick.jit
    def compare(x, kernel, cotangent):
        def by(run):
            out, pullback = jax.vjp(run, x, kernel)
            return out, *pullback(cotangent)

        return by(functools.partial(grouped_conv, groups=groups)), by(block_diagonal)

    window = (3, 5, 1)[: len(grid)]
    with jax.enable_x64(True):
        ours, wanted = compare(
            *draw((2, *grid, inputs), (*window, 2, outputs), (2, *grid, outputs))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, wanted)


@pytest.mark.parametrize(
    ("run", "kernel", "each"),
    [
        (conv, (3, 3, 3, 4, 6), 27 * 4 * 6),
        (depthwise_conv, (3, 1, 3, 4), 9 * 4),
        (functools.partial(grouped_conv, groups=2), (3, 3, 3, 2, 6), 27 * 2 * 6),
    ],
)
def test_a_convolution_of_which_platforms_have_forms_of_their_own_is_counted_once(
    run, kernel, each
):
    x = jnp.zeros((2, 3, 4, 5, 4))
    assert flops.count(run, x, jnp.zeros(kernel)) == 2 * 2 * 3 * 4 * 5 * each


@pytest.mark.parametrize("side", [3, 5])
def test_local_means_leave_out_what_is_beyond_the_edge(side):
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    reach, wanted = side // 2, np.zeros_like(x)
    for i, j in np.ndindex(4, 6):
        near = x[:, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
        wanted[:, i, j] = near.mean((1, 2))
    with jax.enable_x64(True):
        np.testing.assert_allclose(local_mean(jnp.asarray(x), side), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("run", "kernel", "name"),
    [
        (functools.partial(grouped_conv, groups=2), (3, 3, 1, 2), "groups"),
        (functools.partial(grouped_conv, groups=1), (3, 3, 2, 1), "kernel"),
        (functools.partial(grouped_conv, groups=1), (3, 1, 1), "kernel"),
        (conv, (3, 3, 2, 1), "kernel"),
        (conv, (3, 1, 1), "kernel"),
        (depthwise_conv, (3, 1), "kernel"),
        (depthwise_conv, (3, 3, 2), "kernel"),
        (depthwise_conv, (3, 2, 1), "kernel"),
        (functools.partial(depthwise_conv, method="fast"), (3, 3, 1), "method"),
    ],
)
def test_what_does_not_fit_is_named(run, kernel, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        run(jnp.zeros((1, 2, 2, 1)), jnp.zeros(kernel))


@pytest.mark.parametrize(
    ("grid", "window", "strides", "padding"),
    [((9, 8), (4, 4), (2, 2), (1, 1)), ((6, 9, 8), (3, 4, 4), (2, 2, 2), (1, 1, 1)),
     ((5, 6, 7), (2, 4, 4), (1, 1, 1), (0, 1, 1))],
)
def test_strides_and_padding_on_every_axis(grid, window, strides, padding):
    """And the slope of a slope, which a penalty on gradients takes."""
    axes = "DHW"[3 - len(grid) :]
    reference = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=[(side, side) for side in padding],
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    ours = functools.partial(conv, strides=strides, padding=padding)

    @quick.jit
    def compare(x, kernel):
        def penalty(run, kernel):
            slope = jax.grad(lambda x: jnp.tanh(run(x, kernel)).sum())(x)
            return jnp.square(slope).sum()

        return [(run(x, kernel), jax.grad(penalty, 1)(run, kernel)) for run in (ours, reference)]

    with jax.enable_x64(True):
        a, b = compare(*draw((2, *grid, 3), (*window, 3, 2)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), a, b)
    with pytest.raises(ValueError, match=r"^strides"):
        conv(jnp.ones((1, *grid, 3)), jnp.ones((*window, 3, 2)), strides=(2,))


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (2, 2), (4, 2), (5, 3)])
def test_transposed_convolution_is_that_of_a_dilated_input(side, stride):
    def dilated(x, kernel):
        reach = (side - 1) // 2
        first, extra = side - 1 - reach, stride + 2 * reach - side
        return lax.conv_general_dilated(
            x, jnp.flip(kernel, (0, 1)), (1, 1), ((first, first + extra),) * 2,
            lhs_dilation=(stride, stride), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    @quick.jit
    def both(x, kernel, cotangent):
        def with_gradients(function):
            out, pullback = jax.vjp(function, x, kernel)
            return out, *pullback(cotangent)

        return with_gradients(lambda *args: transposed_conv(*args, stride)), with_gradients(dilated)

    with jax.enable_x64(True):
        shapes = (2, 3, 4, 3), (side, side, 3, 2), (2, 3 * stride, 4 * stride, 2)
        ours, expected = both(*draw(*shapes))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, expected)
