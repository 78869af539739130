"""Optimizers against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.train import optim


def adamw(gradients, rates, momenta, b2, eps, decay):
    """PyTorch's AdamW, one number a step, with a beta 1 that may move."""
    parameter, m, v = 1.0, 0.0, 0.0
    for k, (g, rate, b1) in enumerate(zip(gradients, rates, momenta), 1):
        parameter -= rate * decay * parameter
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        parameter -= rate * (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + eps)
    return parameter


def test_one_cycle_moves_the_learning_rate_and_adams_momentum():
    steps, gradients = 12, np.random.default_rng(0).standard_normal(12)
    optimizer = optim.optimizer(
        steps=steps, name="adamw", peak=1e-2, schedule="one_cycle", weight_decay=0.1
    )
    params = {"w": jnp.asarray(1.0)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = {"w": params["w"] + updates["w"]}
    rates = [float(optim.one_cycle(1e-2, steps)(k)) for k in range(steps)]
    momenta = [float(optim.one_cycle_momentum(steps)(k)) for k in range(steps)]
    expected = adamw(gradients, rates, momenta, 0.999, 1e-8, 0.1)
    assert params["w"] == pytest.approx(expected, rel=1e-5)
    assert optim.hyperparameters(state)["learning_rate"] == pytest.approx(rates[-1], rel=1e-5)


def test_a_piecewise_rate_falls_at_its_boundaries():
    rate = optim.SCHEDULES["piecewise"](0.1, 9, boundaries=(3, 5), factor=0.5)
    np.testing.assert_allclose([rate(k) for k in (0, 2, 3, 4, 5, 8)],
                               [0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_rmsprop_is_tensorflows():
    optimizer = optim.optimizer(
        steps=5, name="rmsprop", peak=0.1, b2=0.9, eps=1e-10, schedule="staircase",
        schedule_args={"every": 2, "factor": 0.5, "floor": 0.03},
    )  # fmt: skip
    state, mean_square = optimizer.init(jnp.ones(())), 1.0
    for rate in (0.1, 0.1, 0.05, 0.05, 0.03):
        update, state = optimizer.update(jnp.full((), 3.0), state)
        mean_square = 0.9 * mean_square + 0.1 * 9
        assert update == pytest.approx(-rate * 3 / np.sqrt(mean_square), rel=1e-5)


def test_weight_decay_may_leave_norms_and_biases_alone():
    params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "scale": jnp.ones(2)}
    still = jax.tree.map(jnp.zeros_like, params)
    moved = {}
    for decayed in ("all", "kernels"):
        rule = optim.optimizer(
            steps=1, peak=0.1, schedule="constant", weight_decay=0.5, decayed=decayed
        )
        moved[decayed] = rule.update(still, rule.init(params), params)[0]
    assert all(jnp.all(x == -0.05) for x in jax.tree.leaves(moved["all"]))
    assert jnp.all(moved["kernels"]["dense"]["kernel"] == -0.05)
    assert not moved["kernels"]["dense"]["bias"].any()
    assert not moved["kernels"]["scale"].any()


def test_clipping_bounds_the_global_norm():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    huge = {"a": jnp.full(3, 1e3), "b": jnp.full(4, -1e3)}
    clipped = optim.optimizer(steps=1, schedule="constant", clip=1.0, b1=0.0, b2=0.0, eps=1.0)
    updates, _ = clipped.update(huge, clipped.init(params), params)
    # Adam without memory and with eps 1 moves by g / (|g| + 1).
    g = 1 / np.sqrt(7)
    np.testing.assert_allclose(updates["a"], -1e-3 * g / (g + 1), rtol=1e-5)


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"'linear' is none of \['constant'"):
        optim.optimizer(steps=1, schedule="linear")
    with pytest.raises(ValueError, match=r"'sgd' is none of"):
        optim.optimizer(steps=1, name="sgd")
    known = r"\['all', 'but scales and biases', 'kernels'\]"
    with pytest.raises(ValueError, match=f"decayed: 'biases' is none of {known}"):
        optim.optimizer(steps=1, decayed="biases")
    with pytest.raises(ValueError, match="'adam' has none"):
        optim.optimizer(steps=1, name="adam", weight_decay=0.1)
