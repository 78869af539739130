"""Rotary codes: what turns, by how much, and that only differences of positions matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.layers.norm import QKNorm
from stjax.ops.rotary import (
    axial_spectrum,
    channel_spectrum,
    fractional_spectrum,
    grid_positions,
    interpolated,
    ntk_base,
    rotary_angles,
    rotate,
    shared_spectrum,
    yarn,
)
from tests import quick

SPECTRA = {
    "llama": axial_spectrum((8,)),
    "wan": axial_spectrum((4, 2, 2)),
    "m-rope": shared_spectrum(np.repeat((0, 1, 2), (2, 3, 3))),
    "mm-rope": shared_spectrum([0, 1, 2, 1, 0, 2, 1, 2], base=100),
    "ltx": fractional_spectrum(16, 3, base=100),
}


def by_definition(x, angles, pairs):
    """Each pair (u, v) turned by its angle, one after the other; `pairs` are channel numbers."""
    out = np.array(x)
    for k, (u, v) in enumerate(pairs):
        cos, sin = np.cos(angles[..., k, None]), np.sin(angles[..., k, None])
        out[..., u] = x[..., u] * cos - x[..., v] * sin
        out[..., v] = x[..., u] * sin + x[..., v] * cos
    return out


PAIRINGS = {
    "interleaved": ({"interleaved": True}, [(2 * k, 2 * k + 1) for k in range(8)]),
    "halves": ({}, [(k, k + 8) for k in range(8)]),
    "blocks": ({"blocks": 2}, [(k + k // 4 * 4, k + k // 4 * 4 + 4) for k in range(8)]),
}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(SPECTRA)),
    length=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    kept=st.integers(0, 3),
)
def test_every_pairing_turns_its_pairs_and_leaves_the_rest(name, length, seed, kept):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, length, 3, 16 + kept))
    positions = rng.uniform(-50, 50, (2, length, 3))
    spectrum = SPECTRA[name]
    with jax.enable_x64(True):
        ours = quick.jit(
            lambda x, positions: {
                pairing: rotate(x, rotary_angles(positions, spectrum), **options)
                for pairing, (options, _) in PAIRINGS.items()
            }
        )(x, positions)
    angles = positions[..., spectrum.axes] * spectrum.frequencies
    for pairing, (_, pairs) in PAIRINGS.items():
        theirs = by_definition(x, angles, pairs)
        np.testing.assert_allclose(ours[pairing], theirs, 1e-9, 1e-9, err_msg=pairing)
        np.testing.assert_allclose(
            np.linalg.norm(ours[pairing], axis=-1), np.linalg.norm(x, axis=-1), 1e-9
        )


def test_angles_of_channels_are_those_of_pairs_where_halves_follow_the_same_axes():
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((1, 9, 2, 16)), rng.uniform(-50, 50, (9, 3))
    turn = lambda spectrum: rotate(jnp.asarray(x), rotary_angles(positions, spectrum))
    axes = [0, 1, 2, 1, 0, 2, 1, 2]
    np.testing.assert_allclose(
        turn(channel_spectrum(2 * axes, 100)), turn(SPECTRA["mm-rope"]), 1e-5, 1e-5
    )
    # Else each half has its own: that of the second half turns by axis 0, where the first stands.
    crossed = turn(channel_spectrum(8 * [1] + 8 * [0], 100))
    angles = rotary_angles(positions, channel_spectrum(8 * [1] + 8 * [0], 100))[:, None]
    u, v = np.split(x[0], 2, -1)
    cos, sin = (np.split(f(angles), 2, -1) for f in (np.cos, np.sin))
    by_hand = np.concatenate([u * cos[0] - v * sin[0], v * cos[1] + u * sin[1]], -1)
    np.testing.assert_allclose(crossed[0], by_hand, 1e-5, 1e-5)


@pytest.mark.parametrize("name", sorted(SPECTRA))
@pytest.mark.parametrize("interleaved", [False, True])
def test_products_depend_on_differences_alone(name, interleaved):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 5, 1, 16))
    at, shift = np.arange(5)[:, None] * [1, 2, -3], np.array([3, -7, 2])

    def products(at):
        angles = rotary_angles(at, SPECTRA[name])
        turned = [np.asarray(rotate(x, angles, interleaved=interleaved))[:, 0] for x in (q, k)]
        return turned[0] @ turned[1].T

    with jax.enable_x64(True):
        before, after = products(at), products(at + shift)
        elsewhere = products(at * 2)
    np.testing.assert_allclose(before, after, 1e-9, 1e-9)
    assert np.abs(before - elsewhere).max() > 0.1


def test_gradient_turns_back():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 1, 6, 2, 16))
    angles = rotary_angles(grid_positions((6,)), SPECTRA["llama"])
    with jax.enable_x64(True):
        back = jax.vjp(lambda x: rotate(x, angles), x)[1](jnp.asarray(g))[0]
        np.testing.assert_allclose(back, rotate(g, -angles), 1e-12)


def test_axes_one_by_one_are_all_axes_at_once():
    at = grid_positions((2, 3, 2))
    parts = [axial_spectrum((n,)) for n in (4, 2, 2)]
    alone = [rotary_angles(at[:, k : k + 1], part) for k, part in enumerate(parts)]
    together = rotary_angles(at, axial_spectrum((4, 2, 2)))
    np.testing.assert_allclose(together, np.concatenate(alone, -1), 1e-12)


def test_text_beside_video_is_coded_like_text():
    index = np.arange(7)[:, None]
    video = rotary_angles(np.repeat(index, 3, 1), SPECTRA["m-rope"])
    np.testing.assert_allclose(video, rotary_angles(index, axial_spectrum((8,))), 1e-12)


def test_grid_positions_run_quickest_along_the_last_axis():
    np.testing.assert_array_equal(
        grid_positions((1, 2, 2)), [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    )


def test_fractional_frequencies_and_channels_that_stand_still():
    spectrum = fractional_spectrum(16, 3, base=100)  # two frequencies, two pairs left over
    np.testing.assert_allclose(
        spectrum.frequencies, np.pi / 2 * np.array([0, 0, 1, 1, 1, 100, 100, 100])
    )
    np.testing.assert_array_equal(spectrum.axes[2:], [0, 1, 2, 0, 1, 2])


def test_interpolated_positions():
    spectrum, at = axial_spectrum((4,)), grid_positions((9,))
    np.testing.assert_allclose(
        rotary_angles(at, interpolated(spectrum, 4)), rotary_angles(at / 4, spectrum), 1e-9, 1e-12
    )


def test_ntk_keeps_the_quickest_pair_and_stretches_the_slowest():
    before = axial_spectrum((8,)).frequencies
    after = axial_spectrum((8,), ntk_base(10_000, 4, 8)).frequencies
    assert after[0] == before[0]
    np.testing.assert_allclose(after[-1], before[-1] / 4)


def test_yarn_stretches_slow_pairs_alone():
    before = axial_spectrum((64,))
    after = yarn(before, 8, length=4096)
    turns = 4096 * before.frequencies / (2 * np.pi)
    ratio = after.frequencies / before.frequencies
    np.testing.assert_allclose(ratio[turns > 32], 1)
    np.testing.assert_allclose(ratio[turns < 1], 1 / 8)
    between = (turns > 1) & (turns < 32)
    np.testing.assert_allclose(ratio[between], (g := (turns[between] - 1) / 31) + (1 - g) / 8)
    assert between.sum() > 5


def test_numpy_positions_lose_nothing_to_float32():
    spectrum = fractional_spectrum(96, 1)  # up to 15,708 radians a unit
    at = np.linspace(-1, 1, 50)[:, None]
    turned = rotate(jnp.ones((50, 1, 96)), rotary_angles(at, spectrum))[:, 0, :48]
    angles = at * spectrum.frequencies
    np.testing.assert_allclose(turned, np.cos(angles) - np.sin(angles), 0, 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_dtypes(dtype, tolerance):
    x = np.random.default_rng(0).standard_normal((2, 9, 2, 20))
    at = grid_positions((9,))
    ours = rotate(jnp.asarray(x, dtype), rotary_angles(jnp.asarray(at), SPECTRA["llama"]))
    assert ours.dtype == dtype
    theirs = by_definition(x, at * SPECTRA["llama"].frequencies, PAIRINGS["halves"][1])
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, 0, 4 * tolerance)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rotate(np.ones((3, 4)), np.ones((3, 2))), "x"),
        (lambda: rotate(np.ones((3, 1, 4)), np.ones((3, 3))), "x"),
        (lambda: rotate(np.ones((3, 1, 4)), np.ones((2, 2))), "angles"),
        (lambda: rotate(np.ones((3, 1, 4)), np.ones((1, 3, 2, 2))), "angles"),
        (lambda: rotate(np.ones((3, 1, 6)), np.ones((3, 3)), blocks=2), "blocks"),
        (lambda: rotary_angles(np.ones((3, 2)), axial_spectrum((1, 1, 1))), "positions"),
        (lambda: fractional_spectrum(15, 3), "features"),
        (lambda: fractional_spectrum(4, 3), "features"),
    ],
)
def test_what_does_not_fit_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()


@pytest.mark.parametrize("over", ["head", "width"])
@pytest.mark.parametrize("center", [False, True])
def test_queries_and_keys_are_normalised_over_heads_or_the_whole_width(over, center):
    rng = np.random.default_rng(0)
    inputs = q, k = rng.standard_normal((2, 1, 5, 2, 4)) + 1
    module = QKNorm(over, center)
    variables = quick.variables(module, q, k)
    with jax.enable_x64(True):
        ours = module.apply(variables, q, k)
    axes = -1 if over == "head" else (-2, -1)
    for name, x, y in zip("qk", inputs, ours):
        x = x - x.mean(axes, keepdims=True) if center else x
        x = x / np.sqrt(np.square(x).mean(axes, keepdims=True) + 1e-6)
        parameters = variables["params"][name]
        assert parameters["scale"].shape == ((4,) if over == "head" else (2, 4))
        wanted = x * parameters["scale"] + (parameters["bias"] if center else 0)
        np.testing.assert_allclose(y, wanted, 1e-6, 1e-6)
