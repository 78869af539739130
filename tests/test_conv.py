"""Depthwise convolutions: one operation, computed in two ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.conv import depthwise_conv


def value_and_gradients(method, x, kernel, cotangent, dilation):
    out, pullback = jax.vjp(lambda *args: depthwise_conv(*args, dilation, method), x, kernel)
    return out, *pullback(cotangent)


@settings(max_examples=10, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 5]),
    columns=st.sampled_from([1, 3, 7]),
    dilation=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_shifted_products_equal_the_grouped_convolution(rows, columns, dilation, height, width):
    with jax.enable_x64(True), jax.disable_jit(False):
        rng = np.random.default_rng(0)
        x, cotangent = rng.normal(size=(2, 2, height, width, 3))
        kernel = rng.normal(size=(rows, columns, 3))
        args = (x, kernel, cotangent, dilation)
        shifted, grouped, auto = (
            value_and_gradients(method, *args) for method in ("shifted", "grouped", "auto")
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), shifted, grouped)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), auto, grouped)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'fast' is none of"):
        depthwise_conv(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1)), method="fast")
