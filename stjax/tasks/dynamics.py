"""Forecasts of dynamical systems: each step from those before, rolled out from a warm-up."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from stjax.metrics.chaos import accurate_steps, nrmse, spectrum, valid_time
from stjax.processes.autoregressive import generate
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz import trajectories as pictures

Series = Float[Array, "b t n"]


@dataclasses.dataclass(frozen=True, eq=False)
class DynamicsForecast:
    """Trains `model(series, state) -> (what follows each step, state)` with teacher forcing.

    Batches hold "series" in its own units: windows of any length in training, context + horizon
    steps in tests. The model sees them in units of the training series' mean and deviation.

    Attributes:
        context, horizon: steps given to warm up with, and steps rolled out.
        mean, std: of every variable over the training series.
        step_std: of its increments.
        interval: time of a step.
        lyapunov: largest Lyapunov exponent by unit of time, in which valid times are counted; 1
            for a series that has none.
        threshold: error, in units of `std`, at which a forecast is valid no more.
        target: "increment": the model gives what is added to its input, in units of `step_std`;
            "state": it gives the next state.
        noise: deviation of the normal noise on training inputs, in units of `std`. What follows is
            the truth, so that the model learns to come back to it.
        lags: steps that the linear predictors to compare with look back on; up to four, or
            multiples of four.
        period: steps after which a season comes again, to compare with; 0: there is none.
    """

    model: nn.Module
    context: int
    horizon: int
    mean: Float[np.ndarray, "n"]
    std: Float[np.ndarray, "n"]
    step_std: Float[np.ndarray, "n"]
    interval: float = 1.0
    lyapunov: float = 1.0
    threshold: float = 0.5
    target: str = "increment"
    noise: float = 1e-2
    lags: tuple[int, ...] = (1, 4, 16)
    period: int = 0

    headline = "invalid"

    def __post_init__(self):
        if self.target not in ("increment", "state"):
            raise ValueError(f"task.target: {self.target!r} is neither 'increment' nor 'state'")
        if max(self.lags) >= self.context or self.period > self.context:
            raise ValueError(
                f"task.lags, task.period: {self.lags} and {self.period} steps back, "
                f"of {self.context} that are given"
            )

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        params, dropout = jax.random.split(key)
        rngs = {"params": params, "dropout": dropout}
        return self.model.init(rngs, self._scaled(batch)[:, :-1])

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        """Mean square error of every next step, in units of what the model gives."""
        del step
        series = self._scaled(batch)
        noise, dropout = jax.random.split(key)
        seen = series[:, :-1]
        seen += self.noise * jax.random.normal(noise, seen.shape, seen.dtype)
        given, _ = self.model.apply(variables, seen, train=True, rngs={"dropout": dropout})
        wanted = series[:, 1:]
        if self.target == "increment":
            wanted = (wanted - seen) / self._unit
        return jnp.mean(jnp.square(given - wanted)), Aux(metrics={}, updates={})

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Series:
        """The `horizon` steps after the context, each made from the one before."""
        del key
        known = self._scaled(batch)[:, : self.context]
        given, state = self.model.apply(variables, known)
        follow = lambda seen, given: (
            seen + self._unit * given if self.target == "increment" else given
        ).astype(seen.dtype)

        def step(now, state):
            given, state = self.model.apply(variables, now[:, None], state)
            return follow(now, given[:, 0]), state

        first = follow(known[:, -1], given[:, -1])
        rest, _ = generate(step, state, first, self.horizon - 1)
        return self._restored(jnp.concatenate([first[:, None], rest], 1))

    def metrics(self, predictions: Series, batch: Batch) -> Metrics:
        """Of every sample its error by step, valid time and spectra; see `summarise`.

        "invalid" is the share of the horizon that lies after the valid steps: what is to be small.
        """
        truth = self._future(batch)
        if predictions.shape != truth.shape:
            raise ValueError(f"predictions: {predictions.shape} of a truth of {truth.shape}")
        error = nrmse(predictions, truth, self.std)
        scores = {
            "nrmse_by_step": error,
            "invalid": 1 - accurate_steps(error, self.threshold) / self.horizon,
            "valid_steps_005": accurate_steps(error, 0.05),
            "valid_time": valid_time(error, self.interval, self.lyapunov, self.threshold),
            # What has left for infinity has no spectrum; its steps are as far off as can be.
            "spectrum": spectrum(jnp.nan_to_num((predictions - self.mean) / self.std)),
            "true_spectrum": spectrum((truth - self.mean) / self.std),
        }
        weight = batch.get("weight", jnp.ones(len(truth)))
        return {name: (values, weight) for name, values in scores.items()}

    def summarise(self, samples: dict[str, Float[np.ndarray, "samples ..."]]) -> dict[str, Any]:
        """Means over the samples; of the spectra the mean distance of the mean ones, in dB."""
        mean = {name: values.mean(0, dtype=np.float64) for name, values in samples.items()}
        distance = np.abs(mean.pop("spectrum") - mean.pop("true_spectrum")).mean()
        by_step = mean.pop("nrmse_by_step")
        return {
            "nrmse": float(by_step.mean()),
            **{name: float(value) for name, value in mean.items()},
            "spectrum_db": float(distance),
            "nrmse_by_step": by_step.tolist(),
        }

    def render(self, predictions: Series, batch: Batch) -> dict[str, Any]:
        """Truth, prediction and difference over time and variables; errors by step."""
        weight = np.asarray(batch.get("weight", np.ones(len(predictions)))) > 0
        scaled = lambda x: (np.asarray(x)[weight] - self.mean) / self.std
        truth, forecast = scaled(self._future(batch)), scaled(predictions)
        error = nrmse(forecast, truth, 1.0)
        valid = np.asarray(accurate_steps(error, self.threshold))
        return {
            "rollouts": pictures.rollouts(truth, forecast, valid),
            "errors": pictures.errors(error, self.interval * self.lyapunov, self.threshold),
        }

    def summary(self, batch: Batch) -> dict[str, Array]:
        """The normal equations of the linear predictor that looks back furthest."""
        series, most = self._scaled(batch), max(self.lags)
        windows = [series[:, k : k + series.shape[1] - most] for k in range(most)]
        past = self._past(jnp.stack(windows, 2))
        increments = jnp.diff(series, axis=1)[:, most - 1 :] / self._unit
        past, increments = (x.reshape(-1, x.shape[-1]) for x in (past, increments))
        return {"gram": past.T @ past / len(past), "moment": past.T @ increments / len(past)}

    def trivial(self, summary: Mapping[str, Any], batch: Batch) -> dict[str, Series]:
        """The last state, the training mean, linear autoregressions by least squares, the season.

        An autoregression's forecasts are kept within four deviations of the mean, where the series
        is: many would leave for infinity.
        """
        known = self._scaled(batch)[:, : self.context]
        hold = lambda x: jnp.broadcast_to(x, (len(known), self.horizon, known.shape[-1]))
        named = {"persistence": hold(known[:, -1:]), "training_mean": hold(0.0)}
        for lags in self.lags:
            named[f"linear_{lags}"] = self._linear(lags, summary, known)
        if self.period:
            turns = -(-self.horizon // self.period)
            named["last_period"] = jnp.tile(known[:, -self.period :], (1, turns, 1))[
                :, : self.horizon
            ]
        return {name: self._restored(x) for name, x in named.items()}

    def _linear(self, lags, summary, known):
        """Rolls out the increments that are linear in the last states."""
        width = 1 + lags * known.shape[-1]
        gram, moment = summary["gram"][:width, :width], summary["moment"][:width]
        size = jnp.sqrt(jnp.diag(gram))
        gram = gram / size / size[:, None] + 1e-6 * jnp.eye(len(gram))
        weights = jnp.linalg.solve(gram, moment / size[:, None]) / size[:, None]

        def step(now, window):
            window = jnp.concatenate([window[:, 1:], now[:, None]], 1)
            ahead = now + self._unit * (self._past(window) @ weights)
            return jnp.clip(ahead, -4, 4).astype(now.dtype), window

        before = known[:, -lags - 1 : -1]
        forecast, _ = generate(step, before, known[:, -1], self.horizon)
        return forecast

    def _past(self, window):
        """What linear predictors read of the last steps, (..., lags, n): a one, and differences.

        The last state, its increment, the increment's increment and so on span what the states
        themselves do, and are far less alike; of every four steps, as differences of more steps
        are lost in rounding.
        """
        columns = [jnp.ones_like(window[..., 0, :1])]
        while window.shape[-2]:
            block, window, unit = window[..., -4:, :], window[..., :-4, :], 1.0
            while block.shape[-2]:
                columns.append(block[..., -1, :] / unit)
                block, unit = jnp.diff(block, axis=-2), unit * self._unit
        return jnp.concatenate(columns, -1)

    @property
    def _unit(self):
        """A usual increment, in units of `std`."""
        return self.step_std / self.std

    def _scaled(self, batch):
        series = jnp.asarray(batch["series"])
        if series.ndim != 3 or series.shape[2] != len(self.std) or series.shape[1] < 2:
            raise ValueError(f"batch['series']: {series.shape} instead of (b, t, {len(self.std)})")
        return (series - self.mean) / self.std

    def _future(self, batch):
        series = jnp.asarray(batch["series"])
        if series.shape[1] != self.context + self.horizon:
            wanted = f"{self.context} + {self.horizon} steps"
            raise ValueError(f"batch['series']: {series.shape} instead of {wanted}")
        return series[:, self.context :]

    def _restored(self, series):
        return series * self.std + self.mean
