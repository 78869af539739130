"""Windows of maps, their relative positions, and the layers that attend within them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.window_attention import SwinBlock, WindowAttention
from stjax.ops import windows
from tests import quick


@pytest.mark.parametrize(
    ("shape", "window"), [((6,), (3,)), ((4, 6), (2, 3)), ((4, 6, 5), (2, 3, 5))]
)
def test_windows_are_cut_and_put_together(shape, window):
    x = np.arange(2 * np.prod(shape) * 3).reshape(2, *shape, 3)
    cut = windows.partition(jnp.asarray(x), window)
    counts = [n // w for n, w in zip(shape, window)]
    for number, place in enumerate(np.ndindex(*counts)):
        part = tuple(slice(p * w, (p + 1) * w) for p, w in zip(place, window))
        np.testing.assert_array_equal(cut[:, number], x[:, *part].reshape(2, -1, 3))
    np.testing.assert_array_equal(windows.reverse(cut, window, shape), x)


def test_maps_are_filled_up_and_rolled():
    x = jnp.arange(1, 7).reshape(1, 2, 3)
    np.testing.assert_array_equal(windows.pad(x, (2, 2))[0], [[1, 2, 3, 0], [4, 5, 6, 0]])
    np.testing.assert_array_equal(windows.roll(x, (0, -1))[0], [[2, 3, 1], [5, 6, 4]])


@pytest.mark.parametrize("window", [(4,), (2, 3), (2, 3, 2)])
def test_pairs_share_a_relative_position_exactly_if_their_offsets_are_the_same(window):
    index = windows.relative_index(window)
    places = list(itertools.product(*map(range, window)))
    rows = {}
    for (i, query), (j, key) in itertools.product(enumerate(places), repeat=2):
        offset = tuple(a - b for a, b in zip(query, key))
        assert rows.setdefault(offset, index[i, j]) == index[i, j]
    assert sorted(rows.values()) == list(range(np.prod([2 * w - 1 for w in window])))
    assert [row for _, row in sorted(rows.items())] == sorted(rows.values())


def test_what_a_token_reaches_ends_with_its_window():
    """Of a map of 5 by 6, filled up to 6 by 6; shifted by one, windows begin at 1 and 4."""
    layer = SwinBlock(heads=2, window=(3, 3), shifted=True)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 6, 4)), jnp.float32)
    variables = quick.variables(layer, x)
    moved = quick.jit(lambda x: layer.apply(variables, x))
    change = jnp.abs(moved(x.at[0, 2, 2, 0].add(1.0)) - moved(x)).max(-1)[0] > 1e-7
    reached = np.zeros((5, 6), bool)
    reached[1:4, 1:4] = True
    np.testing.assert_array_equal(change, reached)


def test_a_window_longer_than_the_map_is_the_map():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 4)), jnp.float32)
    layer = WindowAttention(heads=1, window=(4, 3), shift=(2, 1))
    variables = quick.variables(layer, x)
    assert variables["params"]["position_bias"].shape == (7 * 5, 1)
    change = jax.jacobian(lambda x: layer.apply(variables, x))(x)
    assert (jnp.abs(change).max((0, 3, 4, 7)) > 0).all()  # all tokens reach all


@pytest.mark.parametrize("cyclic", [False, True])
def test_whether_a_layer_shifts_may_be_traced(cyclic):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 6, 4)), jnp.float32)
    layer = WindowAttention(heads=2, window=(2, 3), shift=(1, 1), cyclic=cyclic)
    variables = quick.variables(layer, x)
    run = quick.jit(lambda shifted: layer.apply(variables, x, shifted))
    for shifted in (False, True):
        wanted = layer.apply(variables, x, shifted)
        np.testing.assert_allclose(run(jnp.asarray(shifted)), wanted, 1e-5, 1e-6)
    if cyclic:
        back = layer.apply(variables, windows.roll(x, (-1, -1)), False)
        np.testing.assert_allclose(run(jnp.asarray(True)), windows.roll(back, (1, 1)), 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda x: windows.partition(x, (3, 3)), "window"),
        (lambda x: windows.fit((4, 6), (2,), (1, 1)), "window"),
        (lambda x: windows.fit((4, 6), (2, 2), (1,)), "shift"),
        (lambda x: WindowAttention(3, (2, 2)).init(jax.random.key(0), x), "heads"),
        (lambda x: WindowAttention(2, (2,)).init(jax.random.key(0), x), "window"),
    ],
)
def test_what_does_not_fit_is_named(run, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        run(jnp.ones((1, 4, 6, 4)))
