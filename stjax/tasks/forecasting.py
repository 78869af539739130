"""Forecasts of series on a graph: from `context` steps the `horizon` steps after them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from stjax.metrics.series import ERRORS, last_observed, masked_error, observed
from stjax.processes.autoregressive import generate
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import series as pictures

Series = Float[Array, "b t n f"]


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesForecast:
    """Trains and evaluates forecasters, `model(series) -> steps ahead`, both normalised.

    A model may give fewer steps than the horizon: it is trained on those, and fed its own
    forecasts, the window moving on, until the horizon is reached.

    Batches hold "series" (b, context + horizon, n, f) in the data's own units, NaN where nothing
    was observed, and "time" (b, context + horizon, 2): the slot of the day and the day of the week.
    What was not observed is the mean to the model and counts in no loss and no metric.

    Attributes:
        context, horizon: steps given and steps forecast.
        mean, std: of the training series; they normalise what the model sees.
        profile: the training series' mean (slots, n, f) at each time of day.
        weekly: the same by day of the week, (7, slots, n, f), where the data has it.
        minutes: from one step to the next.
        ahead: minutes ahead at which errors are reported; those within the horizon.
        loss_name: a key of `stjax.metrics.series.ERRORS`, of values in the data's units.
        penalty: of the parameters, added to the loss; None: none.
    """

    model: nn.Module
    context: int
    horizon: int
    mean: float
    std: float
    profile: Float[np.ndarray, "slots n f"]
    weekly: Float[np.ndarray, "7 slots n f"] | None = None
    minutes: int = 5
    ahead: tuple[int, ...] = (15, 30, 45, 60)
    loss_name: str = "mae"
    penalty: Callable[[Any], jax.Array] | None = None

    headline = "mae"

    def __post_init__(self):
        if self.loss_name not in ERRORS:
            raise ValueError(f"task.loss_name: {self.loss_name!r} is none of {sorted(ERRORS)}")
        if min(self.context, self.horizon) < 1:
            raise ValueError(f"context {self.context} and horizon {self.horizon}: one at least")

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        params, dropout = jax.random.split(key)
        return self.model.init({"params": params, "dropout": dropout}, self._context(batch))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del step
        prediction, updates = self.model.apply(
            variables, self._context(batch), train=True, rngs={"dropout": key},
            mutable=[name for name in variables if name != "params"],
        )  # fmt: skip
        steps = prediction.shape[1]
        truth = self._future(batch)[:, :steps]
        prediction = self._denormalised(prediction)[:, : self.horizon]
        value, _ = masked_error(self.loss_name, prediction, truth, observed(truth))
        if self.penalty is not None:
            value += self.penalty(variables["params"])
        return value, Aux(metrics={}, updates=updates)

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Series:
        """The `horizon` steps after the context, in the data's units."""
        del key
        apply = lambda window: self.model.apply(variables, window).astype(window.dtype)
        window = self._context(batch)
        first = apply(window)

        def step(forecast, window):
            window = jnp.concatenate([window, forecast], 1)[:, -self.context :]
            return apply(window), window

        forecasts = first
        if more := -(-self.horizon // first.shape[1]) - 1:
            rest, _ = generate(step, window, first, more)
            rest = rest.reshape(len(rest), -1, *first.shape[2:])
            forecasts = jnp.concatenate([first, rest], 1)
        return self._denormalised(forecasts)[:, : self.horizon]

    def metrics(self, predictions: Series, batch: Batch) -> Metrics:
        """Of every sample and step the sum of each error, and of how many values it is: (b, h, 2).

        Raises:
            ValueError: predictions that are not of the truth's shape.
        """
        truth = self._future(batch)
        if predictions.shape != truth.shape:
            raise ValueError(f"predictions: {predictions.shape} of a truth of {truth.shape}")
        weight, known = batch.get("weight", jnp.ones(len(truth))), observed(truth)
        scores = {}
        for name in ("mae", "mape", "mse"):
            mean, count = masked_error(name, predictions, truth, known, (2, 3))
            scores[name] = (jnp.stack([mean * count, count], -1), weight)
        return scores

    def summarise(self, samples: dict[str, Float[np.ndarray, "samples h 2"]]) -> dict[str, Any]:
        """MAE, MAPE and RMSE of all values that were observed: in all, so far ahead, by step."""
        totals = {name: values.sum(0, dtype=np.float64) for name, values in samples.items()}
        named = {f"_{minutes}min": [step] for minutes, step in self._reported().items()}
        report = {}
        for suffix, steps in {"": slice(None), **named}.items():
            for name, total in totals.items():
                value, count = total[steps].sum(0)
                value /= max(count, 1)
                root = name == "mse"
                report[("rmse" if root else name) + suffix] = float(value**0.5 if root else value)
        value, count = totals["mae"].T
        return {**report, "mae_by_step": (value / np.maximum(count, 1)).tolist()}

    def render(self, predictions: Series, batch: Batch) -> dict[str, Any]:
        """A day of some sensors, and errors by step beside the trivial predictors'."""
        weight = np.asarray(batch.get("weight", np.ones(len(predictions)))) > 0
        truth = np.asarray(batch["series"])[weight]
        predictions = np.asarray(predictions)[weight]
        steps = self._reported() or {self.minutes * self.horizon: self.horizon - 1}
        ends = {f"{m} min ahead": steps[m] for m in (min(steps), max(steps))}
        forecasts = {"forecast": predictions}
        forecasts |= {name: np.asarray(x)[weight] for name, x in self.trivial({}, batch).items()}
        return {
            "day": pictures.day(truth[..., 0], predictions[..., 0], ends),
            "horizon": pictures.errors(
                truth[:, self.context :], forecasts, f"steps of {self.minutes} minutes ahead"
            ),
        }

    def summary(self, batch: Batch) -> dict[str, Any]:
        """Nothing: the trivial predictors know the whole training series' statistics."""
        del batch
        return {}

    def trivial(self, summary: Mapping[str, Any], batch: Batch) -> dict[str, Series]:
        """What knows no neighbour: the last value, means, the time of day, and both together."""
        del summary
        context = jnp.asarray(batch["series"])[:, : self.context]
        future = self._future(batch)
        hold = lambda x: jnp.broadcast_to(x, future.shape)
        last = last_observed(context)[:, None]
        last = jnp.where(jnp.isfinite(last), last, self.mean)
        known = observed(context)
        seen = jnp.sum(jnp.where(known, context, 0), 1, keepdims=True)
        seen /= jnp.maximum(jnp.sum(known, 1, keepdims=True), 1)
        usual = self._usual(batch)
        named = {
            "last_value": hold(last),
            "context_mean": hold(jnp.where(known.any(1, keepdims=True), seen, self.mean)),
            "training_mean": hold(jnp.asarray(self.profile, future.dtype).mean(0)),
            "historical_average": usual[:, self.context :],
            "last_plus_daily": last
            + usual[:, self.context :]
            - usual[:, self.context - 1 : self.context],
        }
        if self.weekly is not None:
            day, slot = batch["time"][:, self.context :, 1], batch["time"][:, self.context :, 0]
            named["weekly_average"] = jnp.asarray(self.weekly)[day, slot]
        return named

    def _usual(self, batch):
        """The training mean at the time of day of every step."""
        return jnp.asarray(self.profile)[batch["time"][..., 0]]

    def _reported(self) -> dict[int, int]:
        """Minutes ahead -> index of the step, of those that the horizon holds."""
        steps = {minutes: minutes // self.minutes - 1 for minutes in self.ahead}
        return {
            minutes: step
            for minutes, step in steps.items()
            if minutes % self.minutes == 0 and step < self.horizon
        }

    def _context(self, batch):
        """The first steps, normalised; the mean where nothing was observed."""
        series, length = jnp.asarray(batch["series"]), self.context + self.horizon
        if series.ndim != 4 or series.shape[1] != length:
            raise ValueError(
                f"batch['series']: {series.shape} instead of (batch, {length}, nodes, features)"
            )
        context = series[:, : self.context]
        return jnp.where(observed(context), (context - self.mean) / self.std, 0)

    def _future(self, batch):
        return jnp.asarray(batch["series"])[:, self.context :]

    def _denormalised(self, series):
        """In the data's units, in float32 at least."""
        return series.astype(jnp.promote_types(series.dtype, jnp.float32)) * self.std + self.mean
