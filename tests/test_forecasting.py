"""Forecasting: what losses and metrics see, roll-outs, trivial predictors, pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from stjax.metrics import series as metrics
from stjax.tasks.forecasting import SeriesForecast
from stjax.viz import series as pictures

SLOTS = 8
PROFILE = np.arange(SLOTS * 2, dtype=np.float32).reshape(SLOTS, 2, 1)


class Drift(nn.Module):
    """The last step plus a learned number for each step ahead."""

    steps: int = 4

    @nn.compact
    def __call__(self, series, *, train=False):
        rise = self.param("rise", nn.initializers.ones, (self.steps, 1, 1))
        return series[:, -1:] + rise


def task(**changes):
    fields = {
        "model": Drift(), "context": 3, "horizon": 4, "mean": 10.0, "std": 2.0,
        "profile": PROFILE, "minutes": 15,
    }  # fmt: skip
    return SeriesForecast(**{**fields, **changes})


def batch_of(series, start=0):
    time = (start + np.arange(series.shape[1])) % SLOTS
    time = np.broadcast_to(np.stack([time, 0 * time], -1), (*series.shape[:2], 2))
    return {"series": series.astype(np.float32), "time": time}


@pytest.fixture
def batch():
    return batch_of(np.random.default_rng(0).uniform(1, 20, (3, 7, 2, 1)))


def test_losses_and_forecasts_are_in_the_units_of_the_data(batch):
    it = task()
    variables = it.init(jax.random.key(0), batch)
    forecast = it.predict(variables, batch, None)
    np.testing.assert_allclose(forecast, np.repeat(batch["series"][:, 2:3] + 2, 4, 1), rtol=1e-5)
    loss, _ = it.loss(variables, batch, jax.random.key(0), 0)
    truth = batch["series"][:, 3:]
    np.testing.assert_allclose(loss, np.abs(forecast - truth).mean(), rtol=1e-5)
    penalised = task(penalty=lambda params: 3 * params["rise"].sum())
    assert penalised.loss(variables, batch, jax.random.key(0), 0)[0] == pytest.approx(loss + 12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_model_is_fed_its_own_forecasts(batch, steps):
    it = task(model=Drift(steps))
    variables = it.init(jax.random.key(0), batch)
    forecast = it.predict(variables, batch, None)
    rises = 2 * (1 + np.arange(4) // steps)
    np.testing.assert_allclose(
        forecast - batch["series"][:, 2:3], np.broadcast_to(rises[:, None, None], (3, 4, 2, 1)),
        rtol=1e-4,
    )  # fmt: skip
    # It is trained on the steps that it forecasts by itself.
    loss, _ = it.loss(variables, batch, jax.random.key(0), 0)
    truth = batch["series"][:, 3 : 3 + steps]
    np.testing.assert_allclose(loss, np.abs(forecast[:, :steps] - truth).mean(), rtol=1e-5)


def test_what_was_not_observed_counts_nowhere(batch):
    it = task()
    whole = it.init(jax.random.key(0), batch)
    holes = {**batch, "series": batch["series"].copy()}
    holes["series"][0, 2, 0] = np.nan  # in the context: the mean to the model
    holes["series"][1, 4, 1] = np.nan  # in the future
    assert it.predict(whole, holes, None)[0, 0, 0, 0] == pytest.approx(it.mean + 2)

    def loss(variables, batch):
        return it.loss(variables, batch, jax.random.key(0), 0)[0]

    value, gradient = jax.value_and_grad(loss)(whole, holes)
    assert np.isfinite(value)
    assert np.isfinite(gradient["params"]["rise"]).all()
    forecast = it.predict(whole, batch, None)
    sums, weight = it.metrics(forecast, holes)["mae"]
    assert weight.tolist() == [1, 1, 1]
    assert sums[..., 1].tolist() == [[2, 2, 2, 2], [2, 1, 2, 2], [2, 2, 2, 2]]
    report = it.summarise({"mae": np.asarray(sums)})
    error = np.abs(forecast - holes["series"][:, 3:])
    assert report["mae"] == pytest.approx(np.nanmean(error), rel=1e-5)
    assert report["mae_30min"] == pytest.approx(np.nanmean(error[:, 1]), rel=1e-5)
    np.testing.assert_allclose(report["mae_by_step"], np.nanmean(error, (0, 2, 3)), rtol=1e-5)


def test_metrics_are_at_the_minutes_that_the_horizon_holds(batch):
    it = task(ahead=(15, 40, 60, 75))
    truth = batch["series"][:, 3:]
    scores = it.metrics(truth + np.arange(1.0, 5)[:, None, None], batch)
    report = it.summarise({name: np.asarray(values) for name, (values, _) in scores.items()})
    named = {f"{e}{s}" for e in ("mae", "mape", "rmse") for s in ("", "_15min", "_60min")}
    assert set(report) == named | {"mae_by_step"}
    assert report["mae_60min"] == pytest.approx(4, rel=1e-4)
    assert report["rmse_60min"] == pytest.approx(4, rel=1e-4)
    assert report["rmse"] == pytest.approx(np.sqrt((1 + 4 + 9 + 16) / 4), rel=1e-4)
    shares = np.arange(1.0, 5)[:, None, None] / truth
    assert report["mape"] == pytest.approx(shares.mean(), rel=1e-4)
    np.testing.assert_allclose(report["mae_by_step"], [1, 2, 3, 4], rtol=1e-4)


def test_trivial_predictors():
    series = np.arange(28.0).reshape(1, 7, 4, 1)[:, :, :2]
    series[0, 2, 1] = np.nan
    batch = batch_of(series, start=6)
    weekly = np.stack([PROFILE + day for day in range(7)])
    named = {name: np.asarray(x) for name, x in task(weekly=weekly).trivial({}, batch).items()}
    assert {x.shape for x in named.values()} == {(1, 4, 2, 1)}
    assert named["last_value"][0, 0].ravel().tolist() == [8, 5]  # of node 1, the one before
    assert named["context_mean"][0, 3].ravel().tolist() == [4, 3]
    assert named["training_mean"][0, 0].ravel().tolist() == PROFILE.mean(0).ravel().tolist()
    # The context is slots 6, 7, 0; the future begins with slot 1.
    np.testing.assert_array_equal(named["historical_average"][0], PROFILE[1:5])
    np.testing.assert_array_equal(named["weekly_average"][0], PROFILE[1:5])
    change = PROFILE[1:5] - PROFILE[0]
    np.testing.assert_allclose(named["last_plus_daily"][0], np.array([[8.0], [5]]) + change)
    assert "weekly_average" not in task().trivial({}, batch)
    empty = batch_of(np.full((1, 7, 2, 1), np.nan))
    assert (np.asarray(task().trivial({}, empty)["last_value"]) == 10).all()


def test_pictures_lie_where_they_belong(monkeypatch):
    drawn = []
    curves = pictures.curves
    monkeypatch.setattr(
        pictures, "curves", lambda lines, **text: drawn.append(lines) or curves(lines, **text)
    )
    clock = np.arange(16.0)
    windows = np.stack([clock[i : i + 7] for i in range(10)])[..., None, None]
    batch = {**batch_of(windows), "weight": np.array([1.0] * 9 + [0])}
    render = task(profile=PROFILE[:, :1]).render(windows[:, 3:] + 0.25, batch)
    assert {name: picture.ndim for name, picture in render.items()} == {"day": 3, "horizon": 3}
    day, horizon = drawn
    assert day["truth"].tolist() == clock[:15].tolist()
    for name, step in (("15 min ahead", 0), ("60 min ahead", 3)):
        line = day[name]
        assert np.isfinite(line).sum() == 9
        np.testing.assert_allclose(line[3 + step : 12 + step], clock[3 + step : 12 + step] + 0.25)
    np.testing.assert_allclose(horizon["forecast"], 0.25)
    np.testing.assert_allclose(horizon["last_value"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda batch: task(loss_name="crps"), r"^task.loss_name: 'crps'"),
        (lambda batch: task(horizon=0), "horizon 0"),
        (lambda batch: task(context=4).init(jax.random.key(0), batch), r"^batch\['series'\]"),
        (
            lambda batch: task(model=Drift(1), horizon=4).metrics(np.zeros((3, 1, 2, 1)), batch),
            r"^predictions: \(3, 1, 2, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(batch, act, message):
    with pytest.raises(ValueError, match=message):
        act(batch)


def test_errors_by_their_definitions():
    pred, true = jnp.array([1.0, 5, 2, 4]), jnp.array([2.0, 2, 0, jnp.nan])
    known = metrics.observed(true)
    assert known.tolist() == [True, True, True, False]
    assert metrics.observed(true, null=0.0).tolist() == [True, True, False, False]
    assert metrics.observed(true, least=1.0).tolist() == [True, True, False, False]
    score = lambda name: [float(x) for x in metrics.masked_error(name, pred, true, known)]
    assert score("mae") == [2, 3]
    assert score("mse") == pytest.approx([14 / 3, 3])
    assert score("mape") == [1, 2]  # a zero is left out
    assert score("huber") == pytest.approx([(0.5 + 2.5 + 1.5) / 3, 3])
    assert score("quantile") == pytest.approx([(0.25 + 2.25 + 1.5) / 3, 3])
    nothing = jnp.zeros(4, bool)
    assert [float(x) for x in metrics.masked_error("mae", pred, true, nothing)] == [0, 0]
    for name in metrics.ERRORS:
        value = lambda pred, name=name: metrics.masked_error(name, pred, true, known)[0]
        gradient = jax.grad(value)(pred)
        assert np.isfinite(gradient).all()
        assert gradient[3] == 0
