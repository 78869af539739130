"""Learning-rate schedules and optimizers as the papers' frameworks define them.

A schedule maps the 0-based index of a step to the value that this step uses.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]


def one_cycle(
    peak: float,
    steps: int,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """PyTorch's OneCycleLR with cosine annealing: peak / div_factor -> peak -> almost nothing."""
    low = peak / div_factor
    return _two_phases(low, peak, low / final_div_factor, steps, pct_start)


def one_cycle_momentum(
    steps: int, *, base: float = 0.85, top: float = 0.95, pct_start: float = 0.3
) -> Schedule:
    """The momentum (Adam's beta 1) that PyTorch's OneCycleLR cycles against the learning rate."""
    return _two_phases(top, base, top, steps, pct_start)


def warmup_cosine(peak: float, steps: int, *, warmup: int = 0, decay_steps: int = 0) -> Schedule:
    """Linear warm-up from 0, then a cosine to 0 that ends at `decay_steps` (default: `steps`)."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, decay_steps or steps)


def epoch_cosine(
    peak: float,
    steps: int,
    *,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    end: float = 1e-6,
    warmup_start: float = 1e-5,
) -> Schedule:
    """timm's CosineLRScheduler as OpenSTL calls it: a new value at the start of every epoch.

    The cosine is not shifted by the warm-up, so that the peak is never reached after one.
    """
    epochs = math.ceil(steps / steps_per_epoch)

    def schedule(step):
        epoch = jnp.asarray(step) // steps_per_epoch
        cosine = end + 0.5 * (peak - end) * (1 + jnp.cos(jnp.pi * epoch / epochs))
        rise = warmup_start + epoch * (peak - warmup_start) / max(warmup_epochs, 1)
        return jnp.where(epoch < warmup_epochs, rise, cosine)

    return schedule


def constant(peak: float, steps: int) -> Schedule:
    """The same learning rate at every step."""
    del steps
    return optax.constant_schedule(peak)


def piecewise(
    peak: float, steps: int, *, boundaries: tuple[int, ...] = (), factor: float = 0.1
) -> Schedule:
    """Multiplied by `factor` from each of the steps in `boundaries` on (PyTorch's MultiStepLR)."""
    del steps
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(boundaries, factor))


def staircase(
    peak: float, steps: int, *, every: int, factor: float, floor: float = 0.0
) -> Schedule:
    """Multiplied by `factor` after every so many steps, `floor` at least."""
    del steps
    return lambda step: jnp.maximum(peak * factor ** (step // every), floor)


SCHEDULES = {
    "one_cycle": one_cycle,
    "warmup_cosine": warmup_cosine,
    "epoch_cosine": epoch_cosine,
    "constant": constant,
    "piecewise": piecewise,
    "staircase": staircase,
}
OPTIMIZERS = ("adam", "adamw", "rmsprop")


def _named(names: frozenset[str]) -> Callable[[Any], Any]:
    """A mask of the parameters of these names; they may be boxed, with the names of their axes."""
    among = lambda path: any(getattr(key, "key", None) in names for key in path)
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: among(path), params)


def _but(names: frozenset[str]) -> Callable[[Any], Any]:
    return lambda params: jax.tree.map(lambda named: not named, _named(names)(params))


# Which parameters weight decay falls on: all (PyTorch), kernels alone (timm, whose other matrices
# are exempt by name), or tokens and positions too.
DECAYED = {
    "all": None,
    "kernels": _named(frozenset({"kernel"})),
    "but scales and biases": _but(frozenset({"bias", "scale", "mask_token"})),
}


def optimizer(
    *,
    steps: int,
    name: str = "adamw",
    peak: float = 1e-3,
    schedule: str = "warmup_cosine",
    schedule_args: dict[str, Any] | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decayed: str = "all",
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """Adam, AdamW or RMSProp under a schedule.

    Args:
        steps: length of the run, which the schedules stretch over.
        name: of `OPTIMIZERS`; "rmsprop" is TensorFlow 1's: squares that start at one and decay by
            `b2`, `eps` within the root, no momentum.
        peak: highest learning rate.
        schedule: a key of `SCHEDULES`; "one_cycle" cycles beta 1 as well, as PyTorch does.
        schedule_args: further arguments of the schedule.
        decayed: a key of `DECAYED`: the parameters that AdamW's weight decay falls on.
        clip: largest global norm of the gradients; 0 leaves them alone.

    Raises:
        ValueError: an unknown optimizer or schedule; the message lists those there are.
    """
    known = {"schedule": SCHEDULES, "name": OPTIMIZERS, "decayed": DECAYED}
    for field, value in {"schedule": schedule, "name": name, "decayed": decayed}.items():
        if value not in known[field]:
            raise ValueError(f"optimizer.{field}: {value!r} is none of {sorted(known[field])}")
    if name != "adamw" and weight_decay:
        raise ValueError(f"optimizer.weight_decay: {name!r} has none; use 'adamw'")
    rate = SCHEDULES[schedule](peak, steps, **(schedule_args or {}))
    if name == "rmsprop":
        make = optax.inject_hyperparams(
            optax.rmsprop, static_args=("eps", "eps_in_sqrt", "initial_scale")
        )
        rule = make(rate, decay=b2, eps=eps, eps_in_sqrt=True, initial_scale=1.0)
    else:
        make = optax.inject_hyperparams(optax.adamw, static_args=("eps", "mask"))
        momentum = one_cycle_momentum(steps) if schedule == "one_cycle" else b1
        rule = make(
            rate, b1=momentum, b2=b2, eps=eps, weight_decay=weight_decay, mask=DECAYED[decayed]
        )
    return optax.chain(optax.clip_by_global_norm(clip), rule) if clip else rule


def hyperparameters(opt_state: Any) -> dict[str, jax.Array]:
    """The values that the last step used: learning rate and, where it moves, beta 1."""
    injected = [
        leaf.hyperparams
        for leaf in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "hyperparams"))
        if hasattr(leaf, "hyperparams")
    ]
    return {"learning_rate": injected[0]["learning_rate"]} if injected else {}


def _two_phases(start: float, middle: float, end: float, steps: int, pct_start: float) -> Schedule:
    first_end = pct_start * steps - 1
    last = steps - 1

    def anneal(a, b, fraction):
        return b + (a - b) / 2 * (1 + jnp.cos(jnp.pi * fraction))

    def schedule(step):
        step = jnp.asarray(step, jnp.result_type(float))
        rising = anneal(start, middle, step / first_end)
        falling = anneal(middle, end, (step - first_end) / (last - first_end))
        return jnp.where(step <= first_end, rising, falling)

    return schedule
