"""The state of a training run and one update of it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from stjax.tasks.base import Batch, Phase, Task, Variables, phases
from stjax.train.optim import hyperparameters

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: number of updates made.
        params: trained parameters.
        collections: other variable collections (running statistics).
        opt_state: state of the optimizer; where the task has phases, of each by its name.
        ema: moving average of `params`; None where the run keeps none.
    """

    step: jax.Array
    params: Any
    collections: Variables
    opt_state: Any
    ema: Any

    @property
    def variables(self) -> Variables:
        """Variables to evaluate with: the averaged parameters where there are some."""
        params = self.params if self.ema is None else self.ema
        return {"params": params, **self.collections}


def create(
    task: Task,
    optimizer: Optimizers,
    key: jax.Array,
    batch: Batch,
    ema: float = 0.0,
) -> TrainState:
    """The state before the first step.

    Raises:
        ValueError: phases of one name, or that train what the model has not.
    """
    variables = dict(task.init(key, batch))
    params = variables.pop("params")
    _check_phases(task, params)
    opt_state = {
        phase.name: _of(phase, optimizer).init(_trained(phase, params)) for phase in phases(task)
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=opt_state.get("", opt_state),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def update(
    task: Task,
    optimizer: Optimizers,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    accumulate: int = 1,
    ema: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: an update in every phase of the task, one after the other; the moving average.

    Args:
        optimizer: one for all phases, or one for each by its name.
        key: the run's key; the step folds its index in, so that a resumed run draws the same.
        accumulate: the batch is cut into this many parts whose gradients are averaged.
        ema: decay of the moving average of the parameters; 0 keeps none.
        axis_name: mapped axis over which gradients are averaged (under `pmap`).

    Returns:
        The new state and scalars for the log: loss, grad_norm, learning_rate, the task's own. Those
        of a phase with a name lead with it, "critics/loss".
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    params, collections, logs = state.params, state.collections, {}
    declared = phases(task)
    opt_state = dict(state.opt_state) if declared[0].name else {"": state.opt_state}
    for number, phase in enumerate(declared):
        transformation, name = _of(phase, optimizer), phase.name
        trained = _trained(phase, params)

        def loss(trained, collections, part, key, loss=phase.loss, others=params):
            variables = {"params": {**others, **trained}, **collections}
            return loss(variables, part, key, state.step)

        phase_key = jax.random.fold_in(key, number) if number else key
        collections, grads, scalars = _gradients(
            loss, trained, collections, batch, phase_key, accumulate
        )
        if axis_name is not None:
            grads, scalars, collections = jax.lax.pmean((grads, scalars, collections), axis_name)
        updates, opt_state[name] = transformation.update(grads, opt_state[name], trained)
        params = {**params, **optax.apply_updates(trained, updates)}
        scalars |= {"grad_norm": optax.tree.norm(grads), **hyperparameters(opt_state[name])}
        logs |= {f"{name}/{log}" if name else log: value for log, value in scalars.items()}
    new = TrainState(
        step=state.step + 1,
        params=params,
        collections=collections,
        opt_state=opt_state.get("", opt_state),
        ema=optax.incremental_update(params, state.ema, 1 - ema) if ema else None,
    )
    return new, logs


def _gradients(loss, params, collections, batch, key, accumulate):
    """Collections after the loss was computed, its gradients, and scalars for the log."""

    def gradients(collections, part, key):
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, aux), grads = grad(params, collections, part, key)
        return {**collections, **aux.updates}, (grads, {"loss": value, **aux.metrics})

    if accumulate == 1:
        collections, (grads, logs) = gradients(collections, batch, key)
        return collections, grads, logs
    # Part k takes every accumulate-th sample from k on: so each device keeps its own samples.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, accumulate)

    def add(carry, xs):
        collections, total = carry
        collections, each = gradients(collections, *xs)
        return (collections, jax.tree.map(jnp.add, total, each)), None

    first = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(gradients, collections, *first)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (collections, total), _ = jax.lax.scan(add, (collections, nothing), (parts, keys))
    grads, logs = jax.tree.map(lambda x: x / accumulate, total)
    return collections, grads, logs


def _trained(phase: Phase, params: Any) -> Any:
    return params if phase.trains is None else {name: params[name] for name in phase.trains}


def _of(phase: Phase, optimizer: Optimizers) -> optax.GradientTransformation:
    return optimizer[phase.name] if isinstance(optimizer, Mapping) else optimizer


def _check_phases(task: Task, params: Any) -> None:
    declared = phases(task)
    names = [phase.name for phase in declared]
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise ValueError(f"phases: names {names}; each needs one of its own")
    for phase in declared:
        if unknown := set(phase.trains or ()) - set(params):
            raise ValueError(
                f"phases: {phase.name} trains {sorted(unknown)}; there are {sorted(params)}"
            )
