"""The task of predicting weather: units, OpenSTL's metrics, trivial predictors, pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.tasks.weather import WeatherPrediction
from stjax.train import evaluate
from stjax.viz import fields
from tests import golden_files


class Hold(nn.Module):
    """Repeats the clip's last frame, as many times as the clip is long."""

    predicts = "clip"

    @nn.compact
    def __call__(self, video, *, train=False):
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * jnp.repeat(video[:, -1:], video.shape[1], axis=1)


MEAN, STD = (280.0, 5.0, 0.0, 10.0), (10.0, 2.0, 1.0, 4.0)
RNG = np.random.default_rng(0)


def task(channels=4, **options):
    names = ("r", "t") if channels == 4 else ("t2m",)
    options = {"context": 2, "horizon": 3, "variables": names, **options}
    return WeatherPrediction(Hold(), mean=MEAN[:channels], std=STD[:channels], **options)


def batch(samples=3, channels=4, start=0):
    video = RNG.normal(size=(samples, 5, 6, 8, channels)).astype(np.float32)
    hour = (start + np.arange(samples)[:, None] + np.arange(5)) % 24
    return {"video": video, "hour": hour.astype(np.int32), "weight": np.ones(samples, np.float32)}


def report(task, batches, predict):
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return evaluate.evaluate(task, predict, {}, batches, everywhere)


def test_metrics_are_openstls():
    golden = golden_files.Golden.load(golden_files.FOLDER / "openstl-metrics.npz")
    pred, true, mean, std = (
        np.moveaxis(golden.inputs[name], 2, -1) for name in ("pred", "true", "mean", "std")
    )
    context = np.zeros_like(true[:, :1])
    data = {"video": np.concatenate([context, true], 1), "weight": np.ones(len(true))}
    constants = {"mean": tuple(mean.ravel().tolist()), "std": tuple(std.ravel().tolist())}
    for variables, prefix in (("r", "t"), "weather_"), (("all",), "denorm_"):
        weather = WeatherPrediction(
            Hold(), context=1, horizon=pred.shape[1], variables=variables, **constants
        )
        # A sample a batch: roots are of the whole set's mean.
        batches = [{k: v[k_ : k_ + 1] for k, v in data.items()} for k_ in range(len(true))]
        units = iter(pred[k : k + 1] * std + mean for k in range(len(pred)))
        found = report(weather, batches, lambda variables, batch, units=units: next(units))
        names = {name.removeprefix(prefix) for name in golden.outputs if name.startswith(prefix)}
        for name in names & {f"{m}{v}" for m in ("mse", "mae", "rmse") for v in ("", "_r", "_t")}:
            expected = float(golden.outputs[prefix + name])
            assert found[name] == pytest.approx(expected, rel=1e-5), name


def test_rmse_of_one_variable_is_the_root_of_the_whole_mean():
    batches, weather = [batch(2, 1), batch(1, 1)], task(1)
    predict = lambda variables, batch: jnp.full((len(batch["video"]), 3, 6, 8, 1), 280.0)
    found = report(weather, batches, predict)
    true = 10 * np.concatenate([b["video"][:, 2:] for b in batches])
    assert found["rmse"] == pytest.approx(np.sqrt((true**2).mean()), rel=1e-4)
    assert set(found) == {"mse", "mae", "rmse", "rmse_by_frame"}


def test_predictions_come_in_units():
    weather, data = task(), batch()
    variables = weather.init(jax.random.key(0), data)
    predictions = weather.predict(variables, data, jax.random.key(1))
    expected = data["video"][:, 1:2] * np.array(STD) + np.array(MEAN)
    np.testing.assert_allclose(predictions, np.repeat(expected, 3, 1), rtol=1e-5)


def test_trivial_predictors_know_the_hour():
    """Fields that the hour alone decides are predicted by its mean, and by the day's course."""
    weather = task(1)
    hours = lambda start: (start + np.arange(24)[:, None] + np.arange(5)) % 24
    course = np.sin(2 * np.pi * np.arange(24) / 24).astype(np.float32)

    def made(start, offset=0.0):
        video = np.broadcast_to(course[hours(start)][..., None, None, None], (24, 5, 6, 8, 1))
        return {"video": np.float32(video + offset), "hour": hours(start).astype(np.int32)}

    training = [weather.summary(made(start)) for start in (0, 5)]
    summary = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *training)
    ahead = made(3, offset=0.5)
    truth = 280 + 10 * ahead["video"][:, 2:]
    trivial = weather.trivial(summary, ahead)
    assert set(trivial) == {
        "copy_last", "context_mean", "training_mean", "hourly_mean", "copy_last_and_daily"
    }  # fmt: skip
    np.testing.assert_allclose(trivial["hourly_mean"], truth - 5, atol=1e-2)
    np.testing.assert_allclose(trivial["copy_last_and_daily"], truth, atol=1e-2)
    np.testing.assert_allclose(trivial["training_mean"], 280, atol=1e-2)
    del ahead["hour"]
    assert "hourly_mean" not in weather.trivial(summary, ahead)


def test_padding_leaves_no_trace_in_the_summary():
    weather, data = task(), batch()
    padded = {k: np.concatenate([v, 9 * np.ones_like(v[:1])]) for k, v in data.items()}
    padded["weight"] = np.array([1, 1, 1, 0], np.float32)
    plain, found = weather.summary(data), weather.summary(padded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain, found)


def test_pictures():
    weather, data = task(), batch()
    pictures = weather.render(np.float32(RNG.normal(size=(3, 3, 6, 8, 4))), data)
    assert set(pictures) == {"r_sheet", "r_clip", "t_sheet", "t_clip"}
    assert all(picture.dtype == np.uint8 for picture in pictures.values())
    assert pictures["t_clip"].shape[0] == 3
    low, middle, high = fields.coloured(np.array([-1, 0.5, 3]), 0, 1)
    np.testing.assert_allclose(255 * low, [68, 1, 84])
    np.testing.assert_allclose(255 * middle, [33, 145, 140])
    np.testing.assert_allclose(255 * high, [253, 231, 37])


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"4 channels do not divide into 3 variables"):
        task(variables=("r", "t", "u")).metrics(jnp.zeros((3, 3, 6, 8, 4)), batch())
