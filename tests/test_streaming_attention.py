"""Attention over a stream: whole, in chunks, token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.layers.attention import StreamingAttention
from stjax.layers.norm import QKNorm
from stjax.ops.attention import FrameCausal
from stjax.ops.rotary import axial_spectrum, rotary_angles
from tests import quick

ANGLES = lambda positions: rotary_angles(positions[:, None], axial_spectrum((2,)))
OPTIONS = {
    "plain": {"capacity": 12},
    "past its capacity": {"capacity": 5},
    "grouped": {"capacity": 12, "kv_heads": 2, "bias": False},
    "rotary": {"capacity": 6, "kv_heads": 1, "rotary": ANGLES, "interleaved": True},
    "normalised": {"capacity": 12, "qk_norm": QKNorm(), "rotary": ANGLES},
    "frames": {"capacity": 12, "mask": FrameCausal(3)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_stream_whole_in_chunks_or_token_by_token(name):
    layer = StreamingAttention(4, **OPTIONS[name])
    x = np.random.default_rng(0).standard_normal((2, 9, 16)).astype(np.float32)
    variables = quick.variables(layer, x)
    apply = quick.jit(functools.partial(layer.apply, variables))
    whole, last = apply(x)
    for length in (3,) if name == "frames" else (4, 1):
        state, parts = None, []
        for start in range(0, x.shape[1], length):
            y, state = apply(x[:, start : start + length], state)
            parts.append(y)
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, 1e-5, 1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), state, last)


def test_rotary_codes_look_at_distances_alone():
    layer = StreamingAttention(4, 12, rotary=ANGLES)
    late = StreamingAttention(4, 12, rotary=lambda positions: ANGLES(positions + 100))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 16)), jnp.float32)
    variables = quick.variables(layer, x)
    y = [quick.jit(module.apply)(variables, x)[0] for module in (layer, late)]
    np.testing.assert_allclose(*y, 1e-4, 1e-5)


def test_dropped_weights_change_training_alone():
    layer = StreamingAttention(4, 12, dropout=0.5)
    x = jnp.ones((1, 5, 16)) * jnp.arange(5)[:, None]
    variables = quick.variables(layer, x)
    run = lambda train, seed: layer.apply(
        variables, x, train=train, rngs={"dropout": jax.random.key(seed)}
    )[0]
    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    assert np.abs(run(True, 0) - run(True, 1)).max() > 1e-3


@pytest.mark.parametrize(("channels", "kv_heads"), [(18, None), (16, 3)])
def test_heads_that_do_not_divide_are_named(channels, kv_heads):
    layer = StreamingAttention(4, 12, kv_heads=kv_heads)
    with pytest.raises(ValueError, match=r"^heads"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, channels)))
