"""OpenSTL's ConvLSTM, and the masks that its training is unrolled under."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.models.prediction.convlstm import ConvLSTM
from stjax.processes.scheduled_sampling import (
    mask,
    own_outputs,
    reverse_scheduled,
    scheduled,
    teacher_forcing,
)
from tests import quick

TINY = {"hidden": (3, 4), "patch": 2, "kernel_size": 3, "param_dtype": jnp.float64}


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9), a, b)


def test_own_outputs_and_true_frames():
    """A rollout that sees only true frames is the teacher-forced pass; else outputs feed back."""
    with jax.enable_x64(True):
        model = ConvLSTM(layer_norm=True, output="candidate", **TINY)
        video = jax.random.normal(jax.random.key(0), (2, 5, 4, 6, 1))
        variables = quick.jit(model.init)(jax.random.key(1), video)
        variables = jax.tree.map(lambda w: w + 0.3, variables)
        call = quick.jit(lambda *args: model.apply(variables, *args[:3], truth=args[3]))
        taught = call(video, None, None, None)
        assert_close(call(video, None, None, jnp.ones((2, 5))), taught)

        outputs, states = [], [None]
        for t in range(5):
            frame = video[:, t : t + 1] if t < 3 else outputs[-1]
            output, state = call(frame, None, states[-1], None)
            outputs.append(output)
            states.append(state)
        truth = jnp.ones((2, 5)).at[:, 3:].set(0)
        whole = call(video, None, None, truth)
        assert_close(whole, (jnp.concatenate(outputs, 1), states[-1]))
        assert_close(call(video[:, 3:], None, states[3], truth[:, 3:])[0], whole[0][:, 3:])


def test_refuses_a_frame_that_patches_do_not_divide():
    with pytest.raises(ValueError, match="5 x 6 pixels do not divide in patches of 2"):
        ConvLSTM(**TINY).init(jax.random.key(0), jnp.zeros((1, 2, 5, 6, 1)))


@pytest.mark.parametrize(
    ("rates", "step", "context_rate", "later_rate"),
    [
        (scheduled, 0, 1, 1),
        (scheduled, 24_999, 1, 0.5),
        (scheduled, 60_000, 1, 0),
        (reverse_scheduled, 0, 0.5, 0.5),
        (reverse_scheduled, 37_500, 1 - 0.5 * np.exp(-2.5), 0.25),
        (reverse_scheduled, 50_000, 1, 0),
        (teacher_forcing, 625 * 100, 1, 0.7),
        (teacher_forcing, 625 * 400, 1, 0),
        (own_outputs, 0, 1, 0),
    ],
)
def test_masks_follow_their_rates(rates, step, context_rate, later_rate):
    drawn = mask(jax.random.key(0), step, 4000, context=4, horizon=3, rates=rates)
    means = np.mean(drawn, axis=0)
    assert drawn.shape == (4000, 6)
    assert means[0] == 1
    np.testing.assert_allclose(means[1:4], context_rate, atol=0.03)
    np.testing.assert_allclose(means[4:], later_rate, atol=0.03)


def test_one_draw_for_all_or_one_for_each():
    rates = lambda step: (1.0, 0.5)
    drawn = lambda key, **how: mask(jax.random.key(key), 0, 8, 3, 4, rates, **how)
    together = np.array([drawn(key, together=True)[:, 3:] for key in range(40)])
    assert (together == together[:, :1, :1]).all()
    assert 0.2 < together.mean() < 0.8
    assert 0 < drawn(0)[:, 3:].mean() < 1
