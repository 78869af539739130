"""Gaussian diffusion against its definitions, where golden files do not reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stjax.processes import gaussian_diffusion as diffusion
from stjax.processes.gaussian_diffusion import GaussianDiffusion, cosine_betas, linear_betas
from tests import quick

RNG = np.random.default_rng(0)
X0, NOISE, X = (RNG.uniform(-1, 1, (3, 2, 4)) for _ in range(3))


@pytest.mark.parametrize("betas", [linear_betas, cosine_betas])
def test_noise_replaces_the_signal(betas):
    process = GaussianDiffusion(betas(1000))
    assert process.steps == 1000
    assert process.abar[0] > 0.999
    assert process.abar[-1] < 1e-4
    np.testing.assert_allclose(process.abar_before[1:], process.abar[:-1])


def test_one_step_after_another_is_all_of_them_at_once():
    """q(x_t | x_0) is the product of the steps q(x_t | x_{t-1}) = N(sqrt(1 - beta) x, beta)."""
    process = GaussianDiffusion(cosine_betas(20))
    mean, variance = 1.0, 0.0
    for beta, abar in zip(process.betas, process.abar):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        np.testing.assert_allclose((mean, variance), (np.sqrt(abar), 1 - abar))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    predicts=st.sampled_from(diffusion.PREDICTS),
    variance=st.sampled_from(diffusion.VARIANCES),
    step=st.lists(st.integers(0, 49), min_size=3, max_size=3),
)
def test_a_perfect_network_gives_the_true_posterior(predicts, variance, step):
    """Whatever it predicts: the clean values come back, the bound is zero, DDIM keeps the noise."""
    process = GaussianDiffusion(cosine_betas(50), predicts=predicts, variance=variance)

    def run(step):
        x = diffusion.q_sample(process, X0, step, NOISE)
        output = diffusion.target(process, X0, step, NOISE)
        if variance == "learned_range":
            output = jnp.concatenate([output, jnp.full_like(output, -1)], -1)
        estimate = diffusion.reverse(process, output, x, step)
        before = diffusion.q_sample(process, X0, jnp.maximum(step - 1, 0), NOISE)
        return {
            "x": x,
            "x0": (estimate.x0, X0),
            "mean": (estimate.mean, diffusion.posterior_mean(process, X0, x, step)),
            "noise": (diffusion.epsilon(process, X0, x, step), NOISE),
            "bound": diffusion.variational_bound(process, estimate, X0, x, step),
            "before": before,
            "ddim": diffusion.ddim_step(process, X0, x, step),
            "after": diffusion.ddim_reverse_step(process, X0, before, jnp.maximum(step - 1, 0)),
        }

    with jax.enable_x64(True):
        out = jax.device_get(quick.jit(run)(np.asarray(step)))
    for name in ("x0", "mean", "noise"):
        np.testing.assert_allclose(*out[name], atol=1e-4, err_msg=name)
    later = np.asarray(step) > 0
    if variance != "fixed_large":
        np.testing.assert_allclose(out["bound"][later], 0, atol=1e-3)
    # DDIM keeps the noise: one step back is the less noised clip, and from there one forwards.
    np.testing.assert_allclose(out["ddim"][later], out["before"][later], atol=1e-4)
    np.testing.assert_allclose(out["ddim"][~later], X0[~later], atol=1e-4)
    np.testing.assert_allclose(out["after"][later], out["x"][later], atol=1e-3)


def test_the_posterior_is_bayes_rule():
    """On a line of numbers: q(x_{t-1} | x_t, x_0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x_0)."""
    process, step = GaussianDiffusion(cosine_betas(10)), 6
    normal = lambda x, mean, variance: np.exp(-((x - mean) ** 2) / (2 * variance))
    x0, x, line = 0.7, -0.4, np.linspace(-8, 8, 100_001)
    beta, before = process.betas[step], process.abar_before[step]
    density = normal(x, np.sqrt(1 - beta) * line, beta)
    density *= normal(line, np.sqrt(before) * x0, 1 - before)
    density /= density.sum()
    mean = (density * line).sum()
    ours = diffusion.posterior_mean(process, jnp.full((1,), x0), jnp.full((1,), x), step)
    np.testing.assert_allclose(ours, [mean], rtol=1e-5)
    variance = np.exp(process.posterior_log_variance[step])
    np.testing.assert_allclose(variance, (density * (line - mean) ** 2).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("variance", "expected"), [("fixed_small", "posterior"), ("fixed_large", "beta")]
)
def test_fixed_variances(variance, expected):
    process = GaussianDiffusion(cosine_betas(10), variance=variance)
    step = jnp.array([0, 3, 9])
    log_variance = diffusion.reverse(process, X, X, step).log_variance[:, 0, 0]
    tables = {"posterior": process.posterior_log_variance, "beta": np.log(process.betas)}
    wanted = tables[expected][step]
    # Step 0 is the same for both: no noise is added there, and beta is no bound.
    wanted[0] = process.posterior_log_variance[0]
    np.testing.assert_allclose(log_variance, wanted, rtol=1e-6)


def test_a_learned_variance_lies_between_the_fixed_ones():
    process, step = GaussianDiffusion(cosine_betas(10)), jnp.array([1, 4, 9])
    at = lambda v: diffusion.reverse(
        process, np.concatenate([X, np.full_like(X, v)], -1), X, step
    ).log_variance[:, 0, 0]
    np.testing.assert_allclose(at(1), np.log(process.betas)[step], rtol=1e-6)
    np.testing.assert_allclose(at(-1), process.posterior_log_variance[step], rtol=1e-6)
    assert np.all((at(-1) < at(0)) & (at(0) < at(1)))


def test_likelihoods_of_all_values_add_up_to_one():
    grid = jnp.linspace(-1, 1, 256)
    for mean, log_scale in ((0.1, -2.0), (-0.99, -4.0), (0.999, 0.5)):
        share = jnp.exp(diffusion._log_likelihood(grid, mean, log_scale))
        np.testing.assert_allclose(share.sum(), 1, atol=1e-4)
    certain = diffusion._log_likelihood(jnp.zeros(1), 0.0, -20.0)
    np.testing.assert_allclose(certain, 0, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sampling_normal_data_gives_its_mean_and_spread(sampler):
    """The best network for data N(3, 0.5^2) is known: the samples have its moments."""
    process = diffusion.respaced(
        GaussianDiffusion(linear_betas(1000), variance="fixed_small"), "200"
    )
    mean, variance = 3.0, 0.25

    def network(x, k):
        """E[noise | x]."""
        abar = jnp.asarray(process.abar, jnp.float32)[k]
        return jnp.sqrt(1 - abar) * (x - jnp.sqrt(abar) * mean) / (abar * variance + 1 - abar)

    def step(x, k, key):
        noise = jax.random.normal(key, x.shape)
        estimate = diffusion.reverse(process, network(x, k), x, k)
        if sampler == "ddpm":
            return diffusion.ddpm_step(estimate, k, noise)
        return diffusion.ddim_step(process, estimate.x0, x, k)

    first, *keys = jax.random.split(jax.random.key(0), process.steps + 1)
    x = jax.random.normal(first, (5_000, 1))
    run = quick.jit(lambda x, keys: diffusion.sample(step, x, process.steps, keys))
    x = np.asarray(run(x, jnp.stack(keys)))
    np.testing.assert_allclose(x.mean(), mean, atol=0.03)
    np.testing.assert_allclose(x.std(), np.sqrt(variance), rtol=0.05)


def test_respacing_keeps_what_is_left_of_the_signal():
    process = GaussianDiffusion(cosine_betas(1000))
    for spacing, count in (("7", 7), ("ddim20", 20), ("1000", 1000)):
        shorter = diffusion.respaced(process, spacing)
        assert shorter.steps == count
        np.testing.assert_allclose(shorter.abar, process.abar[shorter.times], rtol=1e-7)
        twice = diffusion.respaced(shorter, str(max(count // 2, 2)))
        assert set(twice.times) <= set(shorter.times)
    assert diffusion.spaced_times(1000, "11")[[0, 5, -1]].tolist() == [0, 500, 999]


def test_outputs_have_the_values_type_and_gradients_are_finite():
    process = GaussianDiffusion(linear_betas(1000))
    x = jnp.asarray(X, jnp.bfloat16)
    output = jnp.concatenate([x, x], -1)
    for array in diffusion.reverse(process, output.astype(jnp.float32), x, jnp.array([0, 1, 999])):
        assert array.dtype == jnp.float32

    def bound(output):
        step = jnp.array([0, 1, 999])
        estimate = diffusion.reverse(process, output, X, step)
        return diffusion.variational_bound(process, estimate, 1000 * X0, X, step).sum()

    gradient = quick.jit(jax.grad(bound))(100 * jnp.concatenate([X, X], -1, dtype=jnp.float32))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: GaussianDiffusion(np.ones((2, 2))), "betas"),
        (lambda: GaussianDiffusion(np.array([0.0, 0.1])), "betas"),
        (lambda: GaussianDiffusion(cosine_betas(5), times=np.arange(4)), "times"),
        (lambda: GaussianDiffusion(cosine_betas(5), predicts="noise"), "predicts"),
        (lambda: GaussianDiffusion(cosine_betas(5), variance="learned"), "variance"),
        (lambda: diffusion.spaced_times(10, "11"), "spacing"),
        (lambda: diffusion.spaced_times(10, "ddim7"), "spacing"),
        (lambda: diffusion.spaced_times(10, "a few"), "spacing"),
        (lambda: diffusion.reverse(GaussianDiffusion(cosine_betas(5)), X, X, 1), "output"),
    ],
)
def test_what_does_not_fit_is_named(make, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        make()


def test_a_process_is_replaced_field_by_field():
    process = GaussianDiffusion(cosine_betas(5))
    assert dataclasses.replace(process, predicts="v").predicts == "v"
