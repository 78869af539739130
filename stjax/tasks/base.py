"""What the engine asks of a task. It knows nothing else of a paper."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Batch = dict[str, Any]
Variables = dict[str, Any]
# Metric name -> (values, weights): values (b, ...), one entry a sample; weights (b,). The engine
# reports sum(values * weights) / sum(weights) over the whole set, so ragged batches count right.
# Where the task has `summarise(samples) -> {name: value}`, what it returns is reported instead; it
# is called once, with the values of the whole set, {name: numpy array, an entry a sample}.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Aux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
        metrics: scalars for the training log.
        updates: variable collections that the forward pass changed (running statistics).
    """

    metrics: dict[str, jax.Array]
    updates: Variables


class Phase(NamedTuple):
    """One of several updates that a step makes, each of parameters of its own.

    Attributes:
        name: of its optimizer's state, and of its scalars in the log.
        loss: as `Task.loss`; sees the parameters that the phases before it have changed.
        trains: names of the entries of variables["params"] that it changes; None: all.
    """

    name: str
    loss: Callable[..., tuple[jax.Array, Aux]]
    trains: tuple[str, ...] | None


class Task(Protocol):
    """A frozen dataclass of a model and what is asked of it; all its methods are pure.

    A task may have `phases`, a tuple of `Phase`s that a step goes through in their order, instead
    of one loss that trains everything; and `summarise`, for metrics that are no means over samples.
    """

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Variables of the model for batches like this one."""

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Training loss. `step` is the 0-based index of the training step (curricula use it)."""

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Any:
        """Predictions for a batch, in the units of the data."""

    def metrics(self, predictions: Any, batch: Batch) -> Metrics:
        """Per-sample metrics of predictions."""

    def render(self, predictions: Any, batch: Batch) -> dict[str, Any]:
        """Pictures a person would look at: name -> (h, w, 3) image or (t, h, w, 3) video, uint8."""

    def summary(self, batch: Batch) -> Any:
        """What the trivial predictors need of a training batch; the engine averages it."""

    def trivial(self, summary: Any, batch: Batch) -> dict[str, Any]:
        """Predictions of the trivial predictors that a trained model has to beat."""

    @property
    def headline(self) -> str:
        """The metric that decides which checkpoint is best; lower is better."""


def phases(task: Task) -> tuple[Phase, ...]:
    """The task's own, or one without a name that trains everything with `task.loss`."""
    return getattr(task, "phases", None) or (Phase("", task.loss, None),)
