"""How long forecasts of chaos hold, and how like the system they are after that.

An error is taken in units of sigma, every variable's standard deviation over the training series.
(Vlachas et al. 2020, arXiv 1910.05266, section 2.3 and the authors' code RNN-RC-Chaos.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Series = Float[Array, "b t n"]
_QUIET = 1e-8  # amplitudes below it are drawn as it: a constant has no others


def rmse(pred: Series, true: Series) -> Float[Array, "b t"]:
    """Root of the mean square over the variables at every step."""
    return jnp.sqrt(jnp.mean(jnp.square(pred - true), -1))


def nrmse(pred: Series, true: Series, std: Float[Array, "n"]) -> Float[Array, "b t"]:
    """The same, every variable in units of its standard deviation; infinite for NaN."""
    error = rmse(pred / std, true / std)
    return jnp.where(jnp.isnan(error), jnp.inf, error)


def accurate_steps(error: Float[Array, "b t"], threshold: float) -> Int[Array, "b"]:
    """How many steps, from the first on, lie below the threshold before one does not."""
    return jnp.cumprod(error < threshold, axis=-1).sum(-1)


def valid_time(
    error: Float[Array, "b t"], interval: float, lyapunov: float, threshold: float = 0.5
) -> Float[Array, "b"]:
    """Valid prediction time: accurate steps in Lyapunov times, 1 / the largest exponent each.

    Args:
        error: by step, as `nrmse` has it.
        interval: time of a step.
        lyapunov: largest Lyapunov exponent, by unit of time.
    """
    return accurate_steps(error, threshold) * interval * lyapunov


def spectrum(series: Series) -> Float[Array, "b f"]:
    """Amplitudes over time in decibels, 20 log10(2 |fft| / t), meaned over the variables.

    An odd last step is left out.
    """
    length = series.shape[1] // 2 * 2
    amplitude = jnp.abs(jnp.fft.rfft(series[:, :length], axis=1)) * (2 / length)
    return jnp.mean(20 * jnp.log10(jnp.maximum(amplitude, _QUIET)), -1)


def largest_lyapunov(
    step: Callable[[Any], Any], state: Any, steps: int, interval: float, settle: int = 0
) -> Float[Array, ""]:
    """Largest Lyapunov exponent: how fast a small difference grows, by tangent dynamics.

    A tangent goes along with the state (`jax.jvp`) and is brought back to length one after every
    step; the exponent is the mean logarithm of what it grew by (Benettin et al. 1980).

    Args:
        step: state -> state after `interval`, differentiable; of a system or of a learned model.
        state: a tree of arrays, on the attractor.
        steps: how many are averaged.
        settle: steps before them, in which the tangent finds the fastest direction.
    """

    def of_length_one(tangent):
        length = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tangent)))
        return jax.tree.map(lambda x: x / length, tangent), length

    def advance(carry, _):
        state, tangent = jax.jvp(step, *[(part,) for part in carry])
        tangent, length = of_length_one(tangent)
        return (state, tangent), jnp.log(length)

    state = jax.tree.map(jnp.asarray, state)
    # A direction of no symmetry.
    tangent = jax.tree.map(lambda x: jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape), state)
    tangent, _ = of_length_one(tangent)
    _, growth = lax.scan(advance, (state, tangent), None, settle + steps)
    return growth[settle:].mean() / interval
