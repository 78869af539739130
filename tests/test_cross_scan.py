"""Maps as sequences in four directions, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.ops.cross_scan import cross_merge, cross_scan
from tests import quick


def test_the_four_directions():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    directions = ["".join(str(int(v)) for v in row) for row in cross_scan(x)[0, :, :, 0].T]
    assert directions == ["012345", "031425", "543210", "524130"]


@settings(max_examples=6, deadline=None, derandomize=True)
@given(height=st.integers(1, 5), width=st.integers(1, 5))
def test_merging_is_the_transpose_of_scanning(height, width):
    @quick.jit
    def run(x, y):
        sequences, transpose = jax.vjp(cross_scan, x)
        return cross_merge(y, height, width), *transpose(y), cross_merge(sequences, height, width)

    rng = np.random.default_rng(0)
    x = np.float32(rng.standard_normal((2, height, width, 3)))
    y = np.float32(rng.standard_normal((2, height * width, 4, 3)))
    merged, transposed, round_trip = run(x, y)
    np.testing.assert_allclose(merged, transposed, 1e-6, 1e-6)
    np.testing.assert_allclose(round_trip, 4 * x, 1e-6)


@pytest.mark.parametrize("shape", [(1, 5, 4, 2), (1, 6, 3, 2), (6, 4, 2)])
def test_what_does_not_fit_is_named(shape):
    with pytest.raises(ValueError, match=r"^y:"):
        cross_merge(np.ones(shape), 2, 3)
