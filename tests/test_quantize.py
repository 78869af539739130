"""Finite scalars, wavelets, cross-entropy in parts, convolutions that look back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.causal_conv import CausalConv
from stjax.ops.cross_entropy import chunked_cross_entropy
from stjax.ops.quantize import bounded, finite_scalar, finite_scalar_lookup, perplexity
from stjax.ops.wavelets import haar, inverse_haar
from tests import quick

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("levels", [(8, 5, 4, 3), (2,), (5, 7)])
def test_every_code_is_reached_and_looked_up_again(levels):
    codes = jnp.arange(np.prod(levels))
    embeddings = finite_scalar_lookup(codes, levels)
    assert np.abs(embeddings).max() <= 1
    # What rounds to the level: a point of the interval that `bounded` maps to it.
    half, offset = (np.array(levels) - 1) * 1.001 / 2, np.where(np.array(levels) % 2, 0, 0.5)
    whole = embeddings * (np.array(levels) // 2)
    z = jnp.arctanh((whole + offset) / half) - np.arctanh(offset / half)
    again, found = finite_scalar(z, levels)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_allclose(again, embeddings, atol=1e-5)
    assert perplexity(codes, len(codes)) == pytest.approx(len(codes), rel=1e-4)
    assert perplexity(jnp.zeros(9, int), 9) == pytest.approx(1)


def test_gradients_pass_straight_through():
    z, levels = jnp.asarray(RNG.standard_normal((6, 3)), jnp.float32), (8, 5, 3)
    ours = jax.grad(lambda z: finite_scalar(z, levels)[0].sum())(z)
    half = jnp.array([4.0, 2, 1])
    theirs = jax.grad(lambda z: (bounded(z, levels) / half).sum())(z)
    np.testing.assert_allclose(ours, theirs, 1e-5)
    assert finite_scalar(z.astype(jnp.bfloat16), levels)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("levels", [(8, 5), (8, 5, 1), ((8, 5, 3),)])
def test_levels_that_do_not_fit_are_named(levels):
    with pytest.raises(ValueError, match=r"^levels"):
        finite_scalar(jnp.zeros((4, 3)), levels)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_clip_is_its_wavelet_bands(levels):
    clip = RNG.standard_normal((2, 8, 4, 8, 3))
    with jax.enable_x64(True):
        bands = haar(jnp.asarray(clip), levels)
        np.testing.assert_allclose(inverse_haar(bands, levels), clip, atol=1e-12)
    side = 2**levels
    assert bands.shape == (2, 8 // side, 4 // side, 8 // side, 3 * 8**levels)
    # The first band is the mean of each cell, the last but for the mean a difference of it.
    cells = clip.reshape(2, 8 // side, side, 4 // side, side, 8 // side, side, 3)
    np.testing.assert_allclose(bands[..., :3], cells.mean((2, 4, 6)), atol=1e-12)
    if levels == 1:
        np.testing.assert_allclose(
            bands[..., 3:6], (cells[..., 0, :] - cells[..., 1, :]).mean((2, 4)) / 2, atol=1e-12
        )


@pytest.mark.parametrize("grid", [(8,), (4, 8), (4, 8, 12)])
def test_orthonormal_bands_keep_length_on_any_grid(grid):
    values = RNG.standard_normal((2, *grid, 3))
    with jax.enable_x64(True):
        bands = haar(jnp.asarray(values), 2, orthonormal=True)
        again = inverse_haar(bands, 2, orthonormal=True)
    assert bands.shape == (2, *(side // 4 for side in grid), 3 * 4 ** len(grid))
    np.testing.assert_allclose(again, values, atol=1e-12)
    assert np.square(bands).sum() == pytest.approx(np.square(values).sum())


def test_clips_without_whole_cells_are_refused():
    with pytest.raises(ValueError, match=r"^values: \(1, 8, 6, 8, 1\)"):
        haar(jnp.zeros((1, 8, 6, 8, 1)), 2)
    with pytest.raises(ValueError, match=r"^bands"):
        inverse_haar(jnp.zeros((1, 2, 2, 2, 12)), 1)


@pytest.mark.parametrize(("count", "chunk"), [(23, 5), (20, 5), (3, 200)])
def test_cross_entropy_in_parts(count, chunk):
    features, kernel = RNG.standard_normal((count, 6)), RNG.standard_normal((6, 11))
    labels = RNG.integers(11, size=count)

    def whole(features, kernel):
        logits = jax.nn.log_softmax(features @ kernel)
        return -logits[jnp.arange(count), labels]

    parts = lambda *args: chunked_cross_entropy(*args, jnp.asarray(labels), chunk)
    with jax.enable_x64(True):
        both = [
            jax.vjp(function, jnp.asarray(features), jnp.asarray(kernel))
            for function in (parts, whole)
        ]
        cotangent = jnp.asarray(RNG.standard_normal(count))
        np.testing.assert_allclose(both[0][0], both[1][0], 1e-12)
        for ours, theirs in zip(both[0][1](cotangent), both[1][1](cotangent)):
            np.testing.assert_allclose(ours, theirs, 1e-9, 1e-12)
    half = chunked_cross_entropy(
        jnp.asarray(features, jnp.bfloat16), jnp.asarray(kernel, jnp.float32), labels, chunk
    )
    assert half.dtype == jnp.float32


def test_cross_entropy_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"^labels"):
        chunked_cross_entropy(jnp.zeros((4, 2)), jnp.zeros((2, 3)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match=r"^chunk"):
        chunked_cross_entropy(jnp.zeros((4, 2)), jnp.zeros((2, 3)), jnp.zeros(4, int), 0)


@pytest.mark.parametrize(
    ("kernel", "strides", "shape"),
    [((3, 1, 1), (1, 1, 1), (5, 4, 6)), ((1, 3, 3), (1, 2, 2), (5, 2, 3)),
     ((3, 1, 1), (2, 1, 1), (3, 4, 6)), ((3, 3, 3), (1, 1, 1), (5, 4, 6))],
)
def test_no_frame_sees_a_later_one(kernel, strides, shape):
    layer = CausalConv(2, kernel, strides)
    clip = jnp.asarray(RNG.standard_normal((1, 5, 4, 6, 3)), jnp.float32)
    variables = quick.variables(layer, clip)
    y = layer.apply(variables, clip)
    assert y.shape == (1, *shape, 2)
    first = layer.apply(variables, clip[:, :1])
    np.testing.assert_allclose(y[:, :1], first, 1e-5, 1e-6)
    y_of_three = layer.apply(variables, clip[:, :3])
    np.testing.assert_allclose(y[:, : y_of_three.shape[1]], y_of_three, 1e-5, 1e-6)
