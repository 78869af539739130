"""The state of a training run and one update of it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from stjax.tasks.base import Batch, Task, Variables
from stjax.train.optim import hyperparameters


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: number of updates made.
        params: trained parameters.
        collections: other variable collections (running statistics).
        opt_state: state of the optimizer.
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
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: Batch,
    ema: float = 0.0,
) -> TrainState:
    """The state before the first step."""
    variables = dict(task.init(key, batch))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def update(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    accumulate: int = 1,
    ema: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: gradients of the task's loss, an optimizer update, the moving average.

    Args:
        key: the run's key; the step folds its index in, so that a resumed run draws the same.
        accumulate: the batch is cut into this many parts whose gradients are averaged.
        ema: decay of the moving average of the parameters; 0 keeps none.
        axis_name: mapped axis over which gradients are averaged (under `pmap`).

    Returns:
        The new state and scalars for the log: loss, grad_norm, learning_rate, the task's own.
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    def loss(params, collections, part, key):
        return task.loss({"params": params, **collections}, part, key, state.step)

    def gradients(collections, part, key):
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, aux), grads = grad(state.params, collections, part, key)
        return {**collections, **aux.updates}, (grads, {"loss": value, **aux.metrics})

    if accumulate == 1:
        collections, (grads, logs) = gradients(state.collections, batch, key)
    else:
        # Part k takes every accumulate-th sample from k on: so each device keeps its own samples.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )
        keys = jax.random.split(key, accumulate)

        def add(carry, xs):
            collections, total = carry
            collections, each = gradients(collections, *xs)
            return (collections, jax.tree.map(jnp.add, total, each)), None

        first = jax.tree.map(lambda x: x[0], (parts, keys))
        shapes = jax.eval_shape(gradients, state.collections, *first)[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (collections, total), _ = jax.lax.scan(add, (state.collections, nothing), (parts, keys))
        grads, logs = jax.tree.map(lambda x: x / accumulate, total)
    if axis_name is not None:
        grads, logs, collections = jax.lax.pmean((grads, logs, collections), axis_name)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(
        step=state.step + 1,
        params=params,
        collections=collections,
        opt_state=opt_state,
        ema=optax.incremental_update(params, state.ema, 1 - ema) if ema else None,
    )
    return new, {**logs, "grad_norm": optax.tree.norm(grads), **hyperparameters(opt_state)}
