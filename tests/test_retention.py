"""Multi-scale retention and xPos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.retention import MultiScaleRetention
from stjax.ops.xpos import xpos
from tests import quick


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def close(ours, expected, tolerance=2e-5):
    """To `tolerance` of the largest magnitude, or of one."""
    assert np.abs(ours - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.mark.parametrize("method", ["parallel", "sequential", "associative", "chunked"])
def test_a_series_whole_in_chunks_or_step_by_step(method):
    module = MultiScaleRetention(2, qk_features=8, v_features=6, method=method, chunk=4)
    x = random(2, 9, 4)
    variables = quick.variables(module, x)
    apply = quick.jit(module.apply)
    whole, state = apply(variables, x)
    assert (whole.shape, state.shape) == (x.shape, (2, 2, 4, 3))
    assert np.abs(whole[:, 1:] - whole[:, :-1]).max() > 1e-2
    for lengths in ((2, 7), (1,) * 9):
        pieces, handed_on = [], None
        for piece in np.split(x, np.cumsum(lengths)[:-1], axis=1):
            y, handed_on = apply(variables, piece, handed_on)
            pieces.append(y)
        close(np.concatenate(pieces, axis=1), whole)
        close(handed_on, state)


def test_a_stream_has_no_end():
    """Codes counted from the first step would leave float32's range after 36,000."""
    module = MultiScaleRetention(2)
    x = random(1, 30_000, 4)
    variables = quick.variables(module, x)
    y, state = module.apply(variables, x)
    y, state = module.apply(variables, x, state)
    assert np.isfinite(y).all()
    assert np.isfinite(state).all()


def test_masked_steps_write_nothing():
    module, x = MultiScaleRetention(2), random(1, 6, 4)
    variables = quick.variables(module, x)
    mask = np.array([[1, 1, 0, 1, 1, 1.0]])
    other = x.copy()
    other[:, 2] = 5
    apply = quick.jit(lambda x, mask: module.apply(variables, x, mask=mask)[0])
    masked, changed = apply(x, mask), apply(other, mask)
    np.testing.assert_array_equal(masked[:, 3:], changed[:, 3:])
    assert np.abs(masked - apply(x, np.ones_like(mask)))[:, 3:].max() > 1e-3


def test_bfloat16():
    module, x = MultiScaleRetention(2, dtype=jnp.bfloat16), random(1, 6, 4)
    y, state = module.apply(quick.variables(module, x), x)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)


def test_products_of_xpos_codes_depend_on_distance_alone():
    q, k = random(2, 1, 8)
    product = lambda n, m: xpos(q, n)[0] @ xpos(k, m, keys=True)[0]
    close(product(70, 50), product(20, 0))
    # The channels that fade fastest, by their formula.
    first = lambda n: np.linalg.norm(xpos(q, n)[0, :2]) / np.linalg.norm(q[0, :2])
    close(first(512), 0.4 / 1.4)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"^x"):
        xpos(np.ones((1, 3)), 0)
    with pytest.raises(ValueError, match=r"^heads"):
        jax.eval_shape(MultiScaleRetention(3).init, jax.random.key(0), np.ones((1, 2, 4)))
