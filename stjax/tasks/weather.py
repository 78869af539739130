"""Prediction of weather: fields as z-scores, measured in their own units."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.metrics import baselines, video
from stjax.tasks.base import Batch, Metrics, Variables
from stjax.tasks.frame_prediction import FramePrediction, Video
from stjax.viz import fields as pictures

HOURS = 24


@dataclasses.dataclass(frozen=True)
class WeatherPrediction(FramePrediction):
    """Frame prediction of z-scores, with OpenSTL's metrics of weather (arXiv 2306.11249).

    Batches hold "video", and "hour" (b, t) of the day where the trivial predictors are to know it.

    Attributes:
        mean, std: a number a channel, from z-scores back to units (`stjax.data.weather`).
        variables: their names; each has as many channels as any other, one after the other.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    variables: tuple[str, ...] = ("t2m",)

    headline = "mse"

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Video:
        """The `test_horizon` frames after the context, in the data's units."""
        return self._units(super().predict(variables, batch, key))

    def metrics(self, predictions: Video, batch: Batch) -> Metrics:
        """Of every sample the errors of each variable and frame, (b, variables, t)."""
        truth = self._units(self._future(batch))
        weight = batch.get("weight", jnp.ones(len(truth)))
        pairs = zip(
            *(video.by_variable(x, self.variables).values() for x in (predictions, truth))
        )
        errors = [(video.mse(*pair), video.mae(*pair)) for pair in pairs]
        mse, mae = (jnp.stack(values, 1) for values in zip(*errors))
        return {"mse": (mse, weight), "mae": (mae, weight)}

    def summarise(self, samples: Mapping[str, Float[np.ndarray, "n v t"]]) -> dict[str, Any]:
        """MSE, MAE and RMSE of the whole set: of each variable, if several, and their means.

        RMSE is the root of a variable's mean over all frames and pixels, `rmse_by_frame` that of
        each frame ahead.
        """
        by_frame = {name: values.mean(0, dtype=np.float64) for name, values in samples.items()}
        whole = {name: values.mean(1) for name, values in by_frame.items()}
        whole["rmse"] = np.sqrt(whole["mse"])
        report: dict[str, Any] = {name: float(values.mean()) for name, values in whole.items()}
        if len(self.variables) > 1:
            report |= {
                f"{name}_{variable}": float(value)
                for name, values in whole.items()
                for variable, value in zip(self.variables, values)
            }
        return {**report, "rmse_by_frame": np.sqrt(by_frame["mse"]).mean(0).tolist()}

    def render(self, predictions: Video, batch: Batch) -> dict[str, Any]:
        """Each variable's first channel: context, truth, prediction and error of two clips."""
        whole = np.asarray(self._units(jnp.asarray(batch["video"])[:2]))
        parts = whole[:, : self.context], np.asarray(self._future({"video": whole}))
        width = whole.shape[-1] // len(self.variables)
        return {
            f"{name}_{kind}": picture
            for k, name in enumerate(self.variables)
            for kind, picture in pictures.pictures(
                *(x[..., k * width] for x in (*parts, np.asarray(predictions)[:2]))
            ).items()
        }

    def summary(self, batch: Batch) -> dict[str, Array]:
        """The batch's sum of frames, and how many there are, by the hour of the day."""
        frames = self._units(jnp.asarray(batch["video"]))
        weight = batch.get("weight", jnp.ones(len(frames)))
        weight = jnp.repeat(weight, frames.shape[1])
        hour = batch.get("hour", jnp.zeros(frames.shape[:2], jnp.int32)).reshape(-1)
        frames = frames.reshape(-1, *frames.shape[2:]) * weight[:, None, None, None]
        total = lambda x: jax.ops.segment_sum(x, hour, HOURS)
        return {"sum": total(frames), "count": total(weight)}

    def trivial(self, summary: dict[str, Array], batch: Batch) -> dict[str, Video]:
        """The last frame, means of the context and of the training, and what is usual by the hour.

        `copy_last_and_daily` adds to the last frame how the hour's mean changes from its hour.
        """
        context = self._units(jnp.asarray(batch["video"])[:, : self.context])
        horizon = self.test_horizon
        sums, count = summary["sum"], summary["count"][:, None, None, None]
        mean = sums.sum(0) / count.sum()
        named = {
            "copy_last": baselines.copy_last(context, horizon),
            "context_mean": baselines.context_mean(context, horizon),
            "training_mean": baselines.training_mean(context, horizon, mean),
        }
        if "hour" in batch:
            hourly = jnp.where(count > 0, sums / jnp.maximum(count, 1e-6), mean)
            usual = hourly[batch["hour"][:, self.context - 1 : self.context + horizon]]
            named["hourly_mean"] = usual[:, 1:]
            named["copy_last_and_daily"] = context[:, -1:] + usual[:, 1:] - usual[:, :1]
        return named

    def _units(self, frames: Video) -> Video:
        mean, std = (jnp.asarray(x, jnp.float32) for x in (self.mean, self.std))
        return video.denormalise(frames.astype(jnp.float32), mean, std)
