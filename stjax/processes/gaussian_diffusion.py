"""Gaussian diffusion in discrete time: noise added step by step, and taken off again.

DDPM (Ho et al. 2020, arXiv 2006.11239) with learned variances and fewer steps (Nichol and Dhariwal
2021, arXiv 2102.09672) and DDIM (Song et al. 2020, arXiv 2010.02502). Pure: a network is known by
its outputs alone. Steps count from 0, the least noise; arrays are `(b, ...)`, steps `(b,)` or one
number for all.

    process = GaussianDiffusion(linear_betas(1000))
    x_t = q_sample(process, x_0, step, noise)               # what a network is shown, with
    times = jnp.asarray(process.times)[step]                # ... the time that it is told
    estimate = reverse(process, network(x_t, times), x_t, step)
    x_before = ddpm_step(estimate, step, noise)

Tables are computed in float64 on the host and used in float32, as in the published code.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num

Values = Float[Array, "b ..."]
Steps = Int[Array, "*b"] | int
Table = Float[np.ndarray, "n"]

PREDICTS = ("epsilon", "x0", "v")
VARIANCES = ("learned_range", "fixed_small", "fixed_large")


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """The tables of a process, and what a network says about it.

    q(x_t | x_0) is normal with mean sqrt(abar_t) x_0 and variance 1 - abar_t, where abar_t is the
    product of 1 - beta up to step t.

    Attributes:
        betas: share of the variance that every step replaces by noise, (n,).
        times: the time that a network is told at every step; None: 0 to n - 1.
        predicts: what its output estimates: the noise, the clean values, or Salimans' and Ho's
            v = sqrt(abar) noise - sqrt(1 - abar) x_0 (2022, arXiv 2202.00512).
        variance: of a reverse step: "learned_range": the second half of the output's channels says
            where its logarithm lies between those of the two fixed ones; "fixed_small": of the
            true posterior; "fixed_large": beta.

    Raises:
        ValueError: names the field.
    """

    betas: Table
    times: Int[np.ndarray, "n"] | None = None
    predicts: str = "epsilon"
    variance: str = "learned_range"

    def __post_init__(self):
        if np.ndim(self.betas) != 1 or not np.all((self.betas > 0) & (self.betas <= 1)):
            raise ValueError(f"betas: {np.shape(self.betas)} instead of (n,), within (0, 1]")
        if self.times is None:
            object.__setattr__(self, "times", np.arange(len(self.betas)))
        if np.shape(self.times) != np.shape(self.betas):
            raise ValueError(f"times: {np.shape(self.times)} instead of {np.shape(self.betas)}")
        for field, known in {"predicts": PREDICTS, "variance": VARIANCES}.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field}: {getattr(self, field)!r} is none of {', '.join(known)}")

    @property
    def steps(self) -> int:
        return len(self.betas)

    @functools.cached_property
    def abar(self) -> Table:
        """Share of the clean values' variance that is left after each step."""
        return np.cumprod(1 - np.asarray(self.betas, np.float64))

    @functools.cached_property
    def abar_before(self) -> Table:
        return np.append(1.0, self.abar[:-1])

    @functools.cached_property
    def abar_after(self) -> Table:
        return np.append(self.abar[1:], 0.0)

    @functools.cached_property
    def posterior_log_variance(self) -> Table:
        """Of q(x_{t-1} | x_t, x_0); that of step 0, which is none, is step 1's (or beta's)."""
        variance = self.betas * (1 - self.abar_before) / (1 - self.abar)
        variance[0] = variance[1] if self.steps > 1 else self.betas[0]
        return np.log(variance)


def linear_betas(steps: int, start: float = 1e-4, end: float = 0.02) -> Table:
    """Evenly spaced from `start` to `end` at 1,000 steps, both as much larger as steps are fewer.

    (Ho et al. 2020, section 4, scaled as in Nichol's and Dhariwal's code.)
    """
    return np.linspace(1000 / steps * start, 1000 / steps * end, steps)


def cosine_betas(steps: int, offset: float = 0.008, most: float = 0.999) -> Table:
    """abar = cos²((t / steps + offset) / (1 + offset) pi / 2), with betas of `most` at most.

    (Nichol and Dhariwal 2021, equation 17.)
    """
    abar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], most)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def spaced_times(steps: int, spacing: str) -> Int[np.ndarray, "n"]:
    """The steps of a process that a shorter one keeps.

    Args:
        steps: of the process.
        spacing: "n": n of them from the first to the last, evenly spaced and rounded; "ddimn":
            every k-th from the first on, with the least k that gives n (Song et al. 2020).

    Raises:
        ValueError: no such number of steps.
    """
    kind, count = ("ddim", spacing[4:]) if spacing.startswith("ddim") else ("", spacing)
    count = int(count) if count.isdigit() else 0
    if kind:
        kept = next((k for k in range(1, steps) if len(range(0, steps, k)) == count), None)
        if kept is None:
            raise ValueError(f"spacing: {spacing!r}: no stride gives {count} of {steps} steps")
        return np.arange(0, steps, kept)
    if not 2 <= count <= steps:
        raise ValueError(f"spacing: {spacing!r} is neither 'n' nor 'ddimn', with 2 <= n <= {steps}")
    # Summed up as in the published code, because halves are rounded as the sum's last bit says.
    strides = itertools.repeat((steps - 1) / (count - 1), count - 1)
    return np.array([round(time) for time in itertools.accumulate(strides, initial=0.0)])


def respaced(process: GaussianDiffusion, spacing: str) -> GaussianDiffusion:
    """The same process in the steps that `spaced_times` keeps; the network is told the old times.

    (Nichol and Dhariwal 2021, section 4: beta = 1 - abar_t / abar_{t - 1} over the kept steps.)
    """
    kept = spaced_times(process.steps, spacing)
    abar = process.abar[kept]
    betas = 1 - abar / np.append(1.0, abar[:-1])
    return dataclasses.replace(process, betas=betas, times=np.asarray(process.times)[kept])


def q_sample(process: GaussianDiffusion, x0: Values, step: Steps, noise: Values) -> Values:
    """Clean values noised up to a step: sqrt(abar) x_0 + sqrt(1 - abar) noise."""
    signal, spread = _signal_and_spread(process, step, x0)
    return signal * x0 + spread * noise


def target(process: GaussianDiffusion, x0: Values, step: Steps, noise: Values) -> Values:
    """What the network should have predicted."""
    signal, spread = _signal_and_spread(process, step, x0)
    return {"epsilon": noise, "x0": x0, "v": signal * noise - spread * x0}[process.predicts]


def clean(process: GaussianDiffusion, predicted: Values, x: Values, step: Steps) -> Values:
    """The clean values that a network's prediction at x stands for."""
    abar = process.abar
    if process.predicts == "x0":
        return predicted
    if process.predicts == "v":
        signal, spread = _signal_and_spread(process, step, x)
        return signal * x - spread * predicted
    return _at(1 / abar, step, x, np.sqrt) * x - _at(1 / abar - 1, step, x, np.sqrt) * predicted


def epsilon(process: GaussianDiffusion, x0: Values, x: Values, step: Steps) -> Values:
    """The noise that is in x where the clean values are x_0."""
    abar = process.abar
    numerator = _at(1 / abar, step, x, np.sqrt) * x - x0
    return numerator / _at(1 / abar - 1, step, x, np.sqrt)


def posterior_mean(process: GaussianDiffusion, x0: Values, x: Values, step: Steps) -> Values:
    """Mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equation 7)."""
    betas, before, abar = process.betas, process.abar_before, process.abar
    of_x0 = betas * np.sqrt(before) / (1 - abar)
    of_x = (1 - before) * np.sqrt(1 - betas) / (1 - abar)
    return _at(of_x0, step, x) * x0 + _at(of_x, step, x) * x


class Reverse(NamedTuple):
    """An estimate of the reverse step p(x_{t-1} | x_t): mean, log variance, clean values."""

    mean: Values
    log_variance: Values
    x0: Values


def reverse(
    process: GaussianDiffusion,
    output: Float[Array, "b ... k"],
    x: Values,
    step: Steps,
    clip: bool = False,
) -> Reverse:
    """Reads a network's output at x.

    Args:
        output: channels last: c of them, or 2 c where the variance is learned.
        x: (b, ..., c), noised up to `step`.
        clip: whether the clean values lie within [-1, 1].

    Raises:
        ValueError: an output of another shape.
    """
    learned = process.variance == "learned_range"
    if output.shape != (*x.shape[:-1], x.shape[-1] * (1 + learned)):
        raise ValueError(f"output: {output.shape} at x of {x.shape}, variance {process.variance}")
    predicted = output[..., : x.shape[-1]]
    small, large = process.posterior_log_variance, np.log(process.betas)
    if learned:
        share = (output[..., x.shape[-1] :] + 1) / 2
        log_variance = share * _at(large, step, x) + (1 - share) * _at(small, step, x)
    elif process.variance == "fixed_small":
        log_variance = jnp.broadcast_to(_at(small, step, x), x.shape)
    else:
        large = np.append(small[:1], large[1:])  # of step 0, where betas are no bound
        log_variance = jnp.broadcast_to(_at(large, step, x), x.shape)
    x0 = clean(process, predicted, x, step)
    if clip:
        x0 = jnp.clip(x0, -1, 1)
    return Reverse(posterior_mean(process, x0, x, step), log_variance, x0)


def ddpm_step(estimate: Reverse, step: Steps, noise: Values) -> Values:
    """A draw of x_{t-1}; the mean at step 0."""
    spread = jnp.exp(0.5 * estimate.log_variance)
    return estimate.mean + _after_first(step, noise) * spread * noise


def ddim_step(
    process: GaussianDiffusion,
    x0: Values,
    x: Values,
    step: Steps,
    noise: Values | None = None,
    eta: float = 0.0,
) -> Values:
    """x_{t-1} by DDIM (Song et al. 2020, equation 12).

    Args:
        x0: the estimate of the clean values at x, that of `Reverse`.
        noise: not needed where `eta` is 0.
        eta: 0: no noise at all; 1: as much as the true posterior has.
    """
    before, abar = process.abar_before, process.abar
    sigma = eta * np.sqrt((1 - before) / (1 - abar)) * np.sqrt(1 - abar / before)
    kept = np.sqrt(np.maximum(1 - before - sigma**2, 0))
    mean = _at(before, step, x, np.sqrt) * x0
    mean = mean + _at(kept, step, x) * epsilon(process, x0, x, step)
    if not eta:
        return mean
    return mean + _after_first(step, noise) * _at(sigma, step, x) * noise


def ddim_reverse_step(process: GaussianDiffusion, x0: Values, x: Values, step: Steps) -> Values:
    """x_{t+1} by the same equation without noise: from clean values to the noise they come from."""
    after = process.abar_after
    noise = _at(1 - after, step, x, np.sqrt) * epsilon(process, x0, x, step)
    return _at(after, step, x, np.sqrt) * x0 + noise


def variational_bound(
    process: GaussianDiffusion, estimate: Reverse, x0: Values, x: Values, step: Steps
) -> Float[Array, "b"]:
    """A step's term of the variational bound, in bits a dimension (Ho et al. 2020, equation 5).

    The divergence of the estimate from the true posterior; at step 0 the negative log likelihood of
    x_0 as 8-bit values in [-1, 1], as published, whatever they are.
    """
    mean = posterior_mean(process, x0, x, step)
    log_variance = _at(process.posterior_log_variance, step, x)
    divergence = _divergence(mean, log_variance, estimate.mean, estimate.log_variance)
    decoder = -_log_likelihood(x0, estimate.mean, 0.5 * estimate.log_variance)
    over = tuple(range(1, x.ndim))
    terms = jnp.where(jnp.asarray(step) == 0, decoder.mean(over), divergence.mean(over))
    return terms / math.log(2)


def sample(step: Callable[[Values, Array, Any], Values], x: Values, steps: int, draws: Any):
    """From noise to clean values, one `lax.scan`.

    Args:
        step: `(x, k, draw) -> x`, one step of any sampler; k falls from `steps` - 1 to 0.
        x: noise, (b, ...).
        draws: what every step is told besides, such as keys or noise: arrays of `steps` entries on
            their leading axis, in the order of their use.
    """

    def advance(x, now):
        k, draw = now
        return step(x, k, draw).astype(x.dtype), None

    return lax.scan(advance, x, (jnp.arange(steps)[::-1], draws))[0]


def _at(table: Table, step: Steps, x: Values, then: Callable[[Table], Table] | None = None):
    """A table's entries at the steps, in float32, with axes to broadcast against x."""
    table = jnp.asarray(then(table) if then else table, jnp.float32)
    return _against(table[jnp.asarray(step)], x)


def _against(values: Num[Array, "*b"], x: Values) -> Num[Array, "..."]:
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def _signal_and_spread(process, step, x):
    return _at(process.abar, step, x, np.sqrt), _at(1 - process.abar, step, x, np.sqrt)


def _after_first(step: Steps, x: Values) -> Num[Array, "..."]:
    """1, but 0 at step 0."""
    return _against((jnp.asarray(step) > 0).astype(x.dtype), x)


def _divergence(mean1, log_variance1, mean2, log_variance2):
    """Of the second normal distribution from the first, elementwise, in nats."""
    return 0.5 * (
        log_variance2 - log_variance1 - 1
        + jnp.exp(log_variance1 - log_variance2)
        + jnp.square(mean1 - mean2) * jnp.exp(-log_variance2)
    )


def _log_likelihood(x, mean, log_scale):
    """Of values rounded to 255 steps of [-1, 1] under a normal distribution, elementwise.

    The distribution function is the tanh approximation; the ends of the range hold the tails.
    """

    def below(z):
        return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    centred, sharp = x - mean, jnp.exp(-log_scale)
    upper = below(sharp * (centred + 1 / 255))
    lower = below(sharp * (centred - 1 / 255))
    share = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(share, 1e-12))
