"""Other scales: against loops that follow the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.scales import laplacian_pyramid, resize

SIDES = st.integers(1, 12)


def keys(x, a=-0.75):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def interpolated(values, size, method):
    """Along the first axis, point by point."""
    length, out = len(values), []
    for i in range(size):
        place = (i + 0.5) * length / size - 0.5
        if method == "nearest":
            out.append(values[int(np.floor(i * length / size + 1e-9))])
            continue
        kernel = keys if method == "cubic" else lambda x: max(0.0, 1 - abs(x))
        around = range(int(np.floor(place)) - 2, int(np.floor(place)) + 4)
        out.append(sum(kernel(place - k) * values[np.clip(k, 0, length - 1)] for k in around))
    return np.stack(out)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(shape=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES), seed=st.integers(0, 999))
@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_resize_is_interpolation_along_each_axis(method, shape, size, seed):
    maps = np.random.default_rng(seed).standard_normal((2, *shape, 3))
    expected = np.moveaxis(interpolated(np.moveaxis(maps, 1, 0), size[0], method), 0, 1)
    expected = np.moveaxis(interpolated(np.moveaxis(expected, 2, 0), size[1], method), 0, 2)
    with jax.enable_x64(True):
        np.testing.assert_allclose(resize(jnp.asarray(maps), size, method), expected, atol=1e-12)


def test_the_types_of_maps_are_kept():
    maps = jax.random.uniform(jax.random.key(0), (2, 6, 4, 3))
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)):
        out = resize(maps.astype(dtype), (3, 9))
        assert out.dtype == dtype
        np.testing.assert_allclose(np.float32(out), resize(maps, (3, 9)), atol=tolerance)
        level = laplacian_pyramid(maps.astype(dtype), 1)[0]
        assert level.dtype == dtype
        np.testing.assert_allclose(np.float32(level), laplacian_pyramid(maps, 1)[0], atol=tolerance)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cells=st.tuples(st.integers(1, 4), st.integers(1, 4)), levels=st.integers(1, 3))
def test_a_pyramid_holds_what_halving_loses(cells, levels):
    shape = [cell * 2**levels for cell in cells]
    frame = np.random.default_rng(0).standard_normal((*shape, 2))

    def blur(x):
        # SciPy's "mirror" is a reflection about the outermost pixel.
        for axis in (0, 1):
            x = scipy.ndimage.convolve1d(x, np.array([1, 4, 6, 4, 1]) / 16, axis, mode="mirror")
        return x

    with jax.enable_x64(True):
        pyramid = laplacian_pyramid(jnp.asarray(frame), levels)
    assert len(pyramid) == levels
    for level in pyramid:
        smaller, spread = blur(frame)[::2, ::2], np.zeros_like(frame)
        spread[::2, ::2] = smaller
        np.testing.assert_allclose(level, frame - 4 * blur(spread), atol=1e-12)
        frame = smaller


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: resize(jnp.zeros((4, 4, 1)), (0, 3)), "size"),
        (lambda: resize(jnp.zeros((4, 4, 1)), (2, 3), "area"), "method"),
        (lambda: laplacian_pyramid(jnp.zeros((8, 6, 1)), 2), "frames"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
