"""What the engine asks of a task. It knows nothing else of a paper."""

from typing import Any, NamedTuple, Protocol

import jax

Batch = dict[str, Any]
Variables = dict[str, Any]
# Metric name -> (values, weights): values (b, ...), one entry a sample; weights (b,). The engine
# reports sum(values * weights) / sum(weights) over the whole set, so ragged batches count right.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Aux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
        metrics: scalars for the training log.
        updates: variable collections that the forward pass changed (running statistics).
    """

    metrics: dict[str, jax.Array]
    updates: Variables


class Task(Protocol):
    """A frozen dataclass of a model and what is asked of it; all its methods are pure."""

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
