"""When a model that is unrolled in training sees true frames, and when its own outputs.

Scheduled sampling (Bengio et al. 2015), reverse scheduled sampling (PredRNN-V2, Wang et al. 2022,
arXiv 2103.09504) and PhyDNet's teacher forcing (arXiv 2003.01460), with OpenSTL's schedules.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Rates = tuple[Float[Array, ""], Float[Array, ""]]


def scheduled(
    step: Array, *, start: float = 1.0, change: float = 2e-5, stop: int = 50_000
) -> Rates:
    """Probabilities of a true frame within the context (1) and after it (a line down to 0)."""
    return jnp.ones(()), jnp.where(step < stop, start - change * (step + 1), 0.0)


def reverse_scheduled(
    step: Array, *, hold: int = 25_000, stop: int = 50_000, alpha: float = 5_000
) -> Rates:
    """Both start at 1/2; from `hold` to `stop` context rises exponentially, the rest falls to 0."""
    context = jnp.where(step < hold, 0.5, 1 - 0.5 * jnp.exp(-(step - hold) / alpha))
    context = jnp.where(step < stop, context, 1.0)
    return context, jnp.clip(0.5 * (stop - step) / (stop - hold), 0, 0.5)


def teacher_forcing(step: Array, *, change: float = 3e-3, every: int = 625) -> Rates:
    """Within the context 1, after it from 1 down by `change` every so many steps, an epoch's."""
    return jnp.ones(()), jnp.maximum(0.0, 1 - change * (step // every))


def own_outputs(step: Array) -> Rates:
    """Within the context 1, after it 0: trained as it is tested (SwinLSTM)."""
    del step
    return jnp.ones(()), jnp.zeros(())


RATES = {f.__name__: f for f in (scheduled, reverse_scheduled, teacher_forcing, own_outputs)}


def mask(
    key: Array,
    step: Array,
    batch: int,
    context: int,
    horizon: int,
    rates: Callable[[Array], Rates] = scheduled,
    together: bool = False,
) -> Bool[Array, "batch inputs"]:
    """Which inputs of a rollout over context + horizon frames are true frames.

    Args:
        key: random key.
        step: training step.
        batch, context, horizon: samples, frames given, frames to predict.
        rates: one of `RATES`, or one of them with other numbers.
        together: one draw for all frames of all samples (PhyDNet), instead of one for each.

    Returns:
        A mask over the rollout's context + horizon - 1 inputs.
    """
    shape = batch, context + horizon - 2
    draws = jax.random.uniform(key, (1, 1) if together else shape)
    draws = jnp.broadcast_to(draws, shape)
    return mask_from_draws(draws, context, *rates(step))


def mask_from_draws(
    draws: Float[Array, "b inputs-1"], context: int, context_rate: Array, later_rate: Array
) -> Bool[Array, "b inputs"]:
    """The mask of given draws from [0, 1), one for each input after the first, always true, one."""
    later = jnp.arange(1, draws.shape[1] + 1) >= context
    true = draws < jnp.where(later, later_rate, context_rate)
    return jnp.pad(true, ((0, 0), (1, 0)), constant_values=True)
