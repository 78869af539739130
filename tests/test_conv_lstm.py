"""The ConvLSTM mixer, and scans whose kernels' gradients are taken once over all steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stjax.layers.conv_lstm import ConvLSTM
from stjax.ops.conv import conv
from stjax.ops.conv_recurrence import conv_scan, lstm
from tests import quick


def plain(step, kernels, params, carry, xs):
    """What `conv_scan` computes, left to autodiff."""
    convolve = lambda name, frames, by=conv: by(frames, kernels[name])
    return lax.scan(lambda carry, x: step(convolve, params, carry, x), carry, xs)


def two_layers_with_feedback(convolve, params, carry, x):
    """Both outputs feed back, at another number of channels than the input's."""
    frame, flag = x
    hidden, last = carry
    seen = jnp.where(flag, frame, last)
    by_pixel = lambda frames, kernel: jnp.einsum("bhwi,klio->bhwo", frames, kernel)
    for by in (conv, by_pixel):  # the same kernel twice in a step, in two ways
        hidden = convolve("hidden", hidden, by)
    hidden = jnp.tanh(convolve("in", seen) + hidden * params["scale"])
    out = convolve("out", hidden)
    return (hidden, out), out


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10), a, b)


def test_conv_scan_equals_autodiff():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        normal = lambda *shape: jnp.asarray(rng.normal(size=shape))
        shapes = {"in": (3, 3, 2, 5), "hidden": (3, 3, 5, 5), "out": (1, 1, 5, 2)}
        kernels = {name: 0.3 * normal(*shape) for name, shape in shapes.items()}
        params, carry = {"scale": normal(5)}, (normal(2, 4, 3, 5), normal(2, 4, 3, 2))
        xs = (normal(6, 2, 4, 3, 2), jnp.array([True, True, False, True, False, False]))
        weight = normal(6, 2, 4, 3, 2)

        def loss(scan, kernels, params, carry, frames):
            carry, ys = scan(two_layers_with_feedback, kernels, params, carry, (frames, xs[1]))
            return jnp.sum(ys * weight) + sum(jnp.sum(x**2) for x in carry)

        run = lambda scan: quick.jit(
            jax.value_and_grad(lambda *args: loss(scan, *args), argnums=(0, 1, 2, 3))
        )(kernels, params, carry, xs[0])
        assert_close(run(conv_scan), run(plain))


def test_conv_scan_refuses_a_kernel_that_is_never_used():
    weights = {name: jnp.ones((1, 1, 1, 1)) for name in ("in", "spare")}
    step = lambda convolve, params, carry, x: (carry, convolve("in", x))
    frames = jnp.ones((2, 1, 3, 3, 1))
    with pytest.raises(ValueError, match=r"never uses.*spare"):
        jax.grad(lambda weights: conv_scan(step, weights, None, (), frames)[1].sum())(weights)


@pytest.mark.parametrize(
    "options",
    [{}, {"output": "candidate", "gate_order": "ifog", "use_bias": True, "layer_norm": True}],
)
def test_clip_whole_in_chunks_or_frame_by_frame(options):
    with jax.enable_x64(True):
        mixer = ConvLSTM(4, param_dtype=jnp.float64, **options)
        video = jax.random.normal(jax.random.key(0), (2, 5, 4, 6, 3))
        variables = quick.jit(mixer.init)(jax.random.key(1), video)
        call = quick.jit(mixer.apply)
        whole, last = call(variables, video)
        for chunks in ([2, 3], [1] * 5):
            outputs, state = [], None
            for chunk in jnp.split(video, np.cumsum(chunks)[:-1], axis=1):
                output, state = call(variables, chunk, state)
                outputs.append(output)
            assert_close((jnp.concatenate(outputs, 1), state), (whole, last))


def test_refuses_unknown_gates():
    zeros = jnp.zeros((1, 8)), jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="permutation"):
        lstm(*zeros, "iffo", "tanh_cell")
    with pytest.raises(ValueError, match="neither"):
        lstm(*zeros, "ifgo", "cell")
