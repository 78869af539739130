"""Depthwise convolutions: one operation, computed in two ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.conv import depthwise_conv
from tests import quick


@functools.partial(quick.jit, static_argnums=3)
def value_and_gradients(x, kernel, cotangent, dilation):
    def by(method):
        out, pullback = jax.vjp(lambda *args: depthwise_conv(*args, dilation, method), x, kernel)
        return out, *pullback(cotangent)

    return by("shifted"), by("grouped"), by("auto")


@settings(max_examples=6, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 5]),
    columns=st.sampled_from([1, 3, 7]),
    dilation=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_shifted_products_equal_the_grouped_convolution(rows, columns, dilation, height, width):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, cotangent = rng.normal(size=(2, 2, height, width, 3))
        kernel = rng.normal(size=(rows, columns, 3))
        shifted, grouped, auto = value_and_gradients(x, kernel, cotangent, dilation)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), shifted, grouped)
        jax.tree.map(np.testing.assert_array_equal, auto, shifted)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'fast' is none of"):
        depthwise_conv(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1)), method="fast")
