"""Matrices of graphs and convolutions over them, against their definitions written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.layers.graph_convolution import GraphConvolution
from stjax.layers.norm import joint_layer_norm
from stjax.ops import graph
from tests import quick


def weights_of(nodes, seed=0):
    """Symmetric weights in which every node has an edge."""
    drawn = np.random.default_rng(seed).random((nodes, nodes)) * (1 - np.eye(nodes))
    return drawn + drawn.T


@settings(max_examples=10, deadline=None, derandomize=True)
@given(nodes=st.integers(2, 30), order=st.integers(1, 6), seed=st.integers(0, 1000))
def test_chebyshev_of_the_scaled_laplacian_is_a_polynomial_of_its_spectrum(nodes, order, seed):
    laplacian = graph.scaled_laplacian(weights_of(nodes, seed))
    values, vectors = np.linalg.eigh(laplacian)
    assert values.min() >= -1 - 1e-9
    np.testing.assert_allclose(values.max(), 1)
    for k, term in enumerate(graph.chebyshev(laplacian, order)):
        # T_k(cos a) = cos(k a)
        spectrum = np.cos(k * np.arccos(np.clip(values, -1, 1)))
        np.testing.assert_allclose(term, vectors * spectrum @ vectors.T, atol=1e-6)


def test_weights_fall_with_distance_and_are_cut():
    distances = np.array([[0, 1_000.0, 9_000], [1_000, 0, 2_000], [9_000, 2_000, 0]])
    weights = graph.gaussian_weights(distances)
    near, far = np.exp(-0.01 / 0.1), np.exp(-0.04 / 0.1)
    np.testing.assert_allclose(weights, [[0, near, 0], [near, 0, far], [0, far, 0]])


def test_a_node_without_edges_has_a_laplacian():
    weights = np.zeros((3, 3))
    weights[0, 1] = weights[1, 0] = 2.0
    laplacian = graph.scaled_laplacian(weights)
    np.testing.assert_allclose(laplacian, [[0, -1, 0], [-1, 0, 0], [0, 0, -1]], atol=1e-12)


def test_first_order_of_a_pair():
    pair = np.array([[0, 3.0], [3, 0]])
    np.testing.assert_allclose(graph.first_order(pair), np.eye(2) + np.array([[1, 3], [3, 1]]) / 4)


def test_standardised_entries():
    values = graph.standardised(weights_of(6), epsilon=0.0)
    np.testing.assert_allclose([values.mean(), values.var()], [0, 1], atol=1e-9)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: graph.gaussian_weights(np.ones((2, 3))), "distances"),
        (lambda: graph.gaussian_weights(np.full((2, 2), np.nan)), "distances"),
        (lambda: graph.scaled_laplacian(-np.ones((2, 2))), "weights"),
        (lambda: graph.scaled_laplacian(np.zeros((2, 2))), "weights"),
        (lambda: graph.chebyshev(np.eye(2), 0), "order"),
        (lambda: graph.chebyshev(np.ones(3), 2), "matrix"),
        (lambda: graph.first_order(np.ones((2, 1))), "weights"),
    ],
)
def test_what_does_not_fit_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_graph_convolution_is_a_sum_over_supports_nodes_and_channels(dtype):
    rng = np.random.default_rng(0)
    supports, x = rng.standard_normal((3, 5, 5)), rng.standard_normal((2, 4, 5, 6))
    layer = GraphConvolution(7, supports, dtype=dtype)
    variables = quick.variables(layer, jnp.asarray(x, jnp.float32))
    y = quick.jit(layer.apply)(variables, x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    expected = sum(s @ x @ np.asarray(k, np.float64) for s, k in zip(supports, kernel)) + bias
    assert y.dtype == dtype
    error = np.abs(np.asarray(y, np.float64) - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if dtype == jnp.float32 else 3e-2)
    with pytest.raises(ValueError, match=r"^x: .* on a graph of 5 nodes"):
        layer.apply(variables, x[:, :, :4])


def test_joint_layer_norm_looks_over_nodes_and_channels_of_one_step():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    layer = joint_layer_norm()
    variables = layer.init(jax.random.key(0), x)
    assert variables["params"]["scale"].shape == (4, 5)
    y = layer.apply(variables, x)
    np.testing.assert_allclose(y.mean((2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((2, 3)), 1, atol=1e-4)
