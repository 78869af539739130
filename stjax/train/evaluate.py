"""Metrics over a whole set, of a model and of the trivial predictors it has to beat."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from stjax.tasks.base import Batch, Metrics, Task

Report = dict[str, Any]


class Mean:
    """A running weighted mean of metrics, each {name: (values (b, ...), weights (b,))}."""

    def __init__(self):
        self._sums = {}

    def add(self, metrics: dict[str, tuple[Any, Any]]) -> None:
        for name, (values, weights) in metrics.items():
            values = np.asarray(values, np.float64)
            weights = np.asarray(weights, np.float64).reshape(-1, *[1] * (values.ndim - 1))
            # A padded row may hold anything, NaN included: it must not reach the sum.
            total = np.where(weights > 0, values * weights, 0).sum(0)
            old, weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (old + total, weight + weights.sum())

    @property
    def result(self) -> Report:
        return {name: (total / weight).tolist() for name, (total, weight) in self._sums.items()}


class Samples:
    """The metrics of every sample, in the set's order, and what the task makes of them all."""

    def __init__(self, summarise: Callable[[dict[str, np.ndarray]], Report]):
        self._summarise, self._parts = summarise, {}

    def add(self, metrics: dict[str, tuple[Any, Any]]) -> None:
        for name, (values, weights) in metrics.items():
            real = np.asarray(weights) > 0
            self._parts.setdefault(name, []).append(np.asarray(values)[real])

    @property
    def result(self) -> Report:
        return self._summarise({name: np.concatenate(x) for name, x in self._parts.items()})


def _collector(task: Task) -> Mean | Samples:
    return Samples(task.summarise) if hasattr(task, "summarise") else Mean()


def predictor(task: Task) -> Callable[..., Any]:
    """Jitted `(variables, batch) -> predictions`."""
    return jax.jit(lambda variables, batch: task.predict(variables, batch, jax.random.key(0)))


def evaluate(
    task: Task,
    predict: Callable[..., Any],
    variables: Any,
    batches: Iterable[Batch],
    everywhere: jax.sharding.Sharding,
) -> Report:
    """Metrics of the model's predictions, exact over ragged batches.

    Args:
        batches: cut over devices, of which this process may hold a part.
        everywhere: the sharding in which each of them holds all, as every process needs results.
    """
    score, found = jax.jit(task.metrics, out_shardings=everywhere), _collector(task)
    for batch in batches:
        found.add(jax.device_get(score(predict(variables, batch), batch)))
    return found.result


def evaluate_trivial(
    task: Task,
    training: Iterable[Batch],
    batches: Iterable[Batch],
    everywhere: jax.sharding.Sharding,
) -> dict[str, Report]:
    """Metrics of each trivial predictor; `training` batches teach those that need a statistic."""
    summarise = jax.jit(task.summary, out_shardings=everywhere)
    summaries = [jax.device_get(summarise(batch)) for batch in training]
    summary = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *summaries)

    def of_each(summary: Any, batch: Batch) -> dict[str, Metrics]:
        # The summary is an argument: as a constant XLA would compute with it while it compiles.
        predicted = task.trivial(summary, batch)
        return {name: task.metrics(predictions, batch) for name, predictions in predicted.items()}

    score = jax.jit(of_each, out_shardings=everywhere)
    found: dict[str, Mean | Samples] = {}
    for batch in batches:
        for name, metrics in jax.device_get(score(summary, batch)).items():
            found.setdefault(name, _collector(task)).add(metrics)
    return {name: each.result for name, each in found.items()}
