"""Chaotic systems, how long forecasts of them hold, and the task that makes the forecasts."""

import dataclasses
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from benchmarks import chaos as benchmark
from stjax.data import chaos as systems
from stjax.metrics import chaos
from stjax.tasks.dynamics import DynamicsForecast
from stjax.viz import trajectories as pictures
from tests import quick

ETTH1 = pathlib.Path(os.environ.get("STJAX_DATA", "/nonexistent")) / "ett" / "ETTh1.csv"
QUICK = {"trajectories": 2, "steps": 30, "transient": 5, "count_test": 3, "window": 8,
         "context": 6, "horizon": 10}  # fmt: skip


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_trajectories_are_the_same_again_and_held_out_ones_others(system):
    data = systems.load(system, **QUICK)
    variables = len(data.mean)
    assert data.train.series.shape == (2, 30, variables)
    assert (len(data.train), len(data.test)) == (2 * 22, 3)
    first, last = data.train[0]["series"], data.train[43]["series"]
    np.testing.assert_array_equal(first, data.train.series[0, :9])
    np.testing.assert_array_equal(last, data.train.series[1, 21:])
    assert data.test[2]["series"].shape == (16, variables)
    assert abs(data.train.series[0, 0] - data.test.series[0, 0]).max() > 1e-3
    systems.trajectories_of.cache_clear()
    np.testing.assert_array_equal(systems.load(system, **QUICK).train.series, data.train.series)


def test_every_other_step():
    data, fine = (systems.load("lorenz63", **QUICK, every=every) for every in (2, 1))
    np.testing.assert_array_equal(data.train.series[:, :15], fine.train.series[:, ::2])
    assert data.interval == 2 * fine.interval


def test_steps_are_of_fourth_order():
    """Halving the step divides the error by about sixteen."""
    ends = {}
    for parts in (1, 2, 16):
        system = systems.lorenz96(0.05 / parts, variables=6)
        state = (np.arange(6.0),)
        for _ in range(2 * parts):
            state = system.step(state)
        ends[parts] = state[0]
    coarse, fine = (abs(ends[parts] - ends[16]).max() for parts in (1, 2))
    assert 12 < coarse / fine < 24


def test_a_flame_keeps_its_mean():
    """Kuramoto and Sivashinsky's equation conserves the integral of u."""
    system = systems.kuramoto_sivashinsky()
    state = (np.random.default_rng(0).normal(0, 1, (2, 64)),)
    before = state[0].mean(-1)
    for _ in range(20):
        state = system.step(state)
    np.testing.assert_allclose(state[0].mean(-1), before, atol=1e-12)


def test_the_largest_exponent_of_lorenz():
    """0.906 (Sprott 2003), and that of a map that doubles."""
    system = systems.lorenz63()
    state = tuple(np.ones(1) * x for x in (-5.0, -6.0, 22.0))
    run = jax.jit(lambda s: chaos.largest_lyapunov(system.step, s, 30_000, 0.01, settle=2_000))
    assert float(run(state)) == pytest.approx(0.906, abs=0.03)
    doubling = chaos.largest_lyapunov(lambda x: 2 * x, jnp.ones(2), 5, 0.5)
    assert float(doubling) == pytest.approx(2 * np.log(2), rel=1e-5)


def test_a_table(tmp_path):
    path = tmp_path / "ETTh1.csv"
    values = np.random.default_rng(0).normal(size=(40, 3)).round(3)
    rows = [f"2016-07-01 {k:02}:00:00,{a},{b},{c}" for k, (a, b, c) in enumerate(values)]
    path.write_text("\n".join(["date,HUFL,HULL,OT", *rows]) + "\n")
    options = {"path": str(path), "split": (20, 8, 12), "window": 8, "context": 6, "horizon": 4}
    data = systems.load("table", **options)
    np.testing.assert_allclose(data.train.series[0], values[:20], rtol=1e-6)
    # The first forecast step of the test rows is the first of them.
    np.testing.assert_allclose(data.test[0]["series"][6:], values[28:32], rtol=1e-5)
    assert len(data.test) == 9
    with pytest.raises(ValueError, match=re.escape(f"{path}: 40 rows")):
        systems.load("table", **{**options, "split": (20, 8, 13)})
    for line, said in (("2016,1,2", "3 fields under 4"), ("2016,1,x,3", "'x'")):
        path.write_text("\n".join(["date,HUFL,HULL,OT", rows[0], line]))
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}, line 3: .*{said}"):
            systems.load("table", **options)
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        systems.load("table", path="nothing.csv")


@pytest.mark.skipif(not ETTH1.is_file(), reason="STJAX_DATA/ett/ETTh1.csv")
def test_the_real_table():
    data = systems.load("table", path=str(ETTH1), window=96, context=96, horizon=96)
    assert data.train.series.shape == (1, 8_640, 7)
    assert len(data.test) == 2_785


@pytest.mark.parametrize(
    ("options", "said"),
    [({"system": "weather"}, "^data.system: 'weather' is none of lorenz63"),
     ({"system": "lorenz63", **QUICK, "window": 30}, "^series: .* 31 steps"),
     ({"system": "lorenz96", "options": {"interval": 0.5}, **QUICK}, "diverge")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_cannot_be_made(options, said):
    with pytest.raises(ValueError, match=said):
        systems.load(**options)


def test_a_forecast_is_valid_until_it_first_is_not():
    error = jnp.array([[0.1, 0.6, 0.1], [0.1, 0.2, 0.3], [0.5, 0.1, 0.1], [0.1, jnp.inf, 0.1]])
    assert chaos.accurate_steps(error, 0.5).tolist() == [1, 3, 0, 1]
    np.testing.assert_allclose(chaos.valid_time(error, 0.25, 0.04), [0.01, 0.03, 0, 0.01])
    nothing = chaos.nrmse(jnp.full((1, 1, 2), jnp.nan), jnp.zeros((1, 1, 2)), jnp.ones(2))
    assert np.isinf(nothing).all()


def test_the_spectrum_of_a_wave():
    time = np.arange(64) / 64
    wave = 3 * np.sin(2 * np.pi * 5 * time)[None, :, None]
    found = chaos.spectrum(jnp.asarray(wave))[0]
    assert int(found.argmax()) == 5
    assert float(found[5]) == pytest.approx(20 * np.log10(3), abs=1e-3)
    assert chaos.spectrum(jnp.zeros((1, 65, 2))).shape == (1, 33)


class Turn(nn.Module):
    """Knows the law: what the next state of a turning point is, or its increment."""

    angle: float
    task_unit: tuple[float, float] | None = None

    @nn.compact
    def __call__(self, series, state=None, *, train=False):
        self.param("nothing", nn.initializers.zeros, ())
        c, s = np.cos(self.angle), np.sin(self.angle)
        after = series @ np.array([[c, s], [-s, c]])
        if self.task_unit is not None:
            after = (after - series) / np.array(self.task_unit)
        return after, state


def turning(target, noise=0.0):
    angle, steps = 0.1, np.arange(40)
    phases = np.random.default_rng(0).uniform(0, 6.28, (5, 1))
    series = np.stack([np.cos(angle * steps + phases), np.sin(angle * steps + phases)], -1)
    step_std = (0.05, 0.07)
    task = DynamicsForecast(
        Turn(angle, step_std if target == "increment" else None), context=20, horizon=20,
        mean=np.zeros(2), std=np.ones(2), step_std=np.array(step_std), interval=0.1, lyapunov=2.0,
        target=target, noise=noise,
    )
    return task, {"series": np.float32(series)}


@pytest.mark.parametrize("target", ["increment", "state"])
def test_the_law_is_learned_when_nothing_is_left_to_learn(target):
    task, batch = turning(target)
    variables = task.init(jax.random.key(0), batch)
    loss, _ = task.loss(variables, batch, jax.random.key(1), 0)
    assert float(loss) < 1e-8
    forecast = task.predict(variables, batch, jax.random.key(0))
    np.testing.assert_allclose(forecast, batch["series"][:, 20:], atol=1e-4)
    found = {name: np.asarray(x) for name, (x, _) in task.metrics(forecast, batch).items()}
    report = task.summarise(found)
    assert report["invalid"] == 0
    assert report["valid_time"] == pytest.approx(20 * 0.1 * 2)
    assert report["spectrum_db"] < 0.1
    noisy = dataclasses.replace(task, noise=0.1)
    assert float(noisy.loss(variables, batch, jax.random.key(1), 0)[0]) > 1e-3


def test_trivial_predictors():
    """A line through two steps holds a turning point for ever; standing still and the mean do not.
    """
    task, batch = turning("state")
    task = dataclasses.replace(task, lags=(1, 2), period=5)
    named = task.trivial(task.summary(batch), batch)
    assert set(named) == {"persistence", "training_mean", "linear_1", "linear_2", "last_period"}
    truth = batch["series"][:, 20:]
    np.testing.assert_array_equal(named["persistence"][:, 7], batch["series"][:, 19])
    np.testing.assert_array_equal(named["last_period"][:, 7], batch["series"][:, 17])
    assert abs(named["linear_2"] - truth).max() < 0.02
    assert abs(named["training_mean"]).max() == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"target": "velocity"}, "^task.target"), ({"lags": (20,)}, "^task.lags")],
)
def test_a_task_refuses(fields, said):
    task, _ = turning("state")
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(task, **fields)


def test_series_of_other_shapes_are_refused():
    task, batch = turning("state")
    for series in (batch["series"][..., :1], batch["series"][0]):
        with pytest.raises(ValueError, match=r"^batch\['series'\]"):
            task.init(jax.random.key(0), {"series": series})
    with pytest.raises(ValueError, match=r"^batch\['series'\]"):
        task.metrics(batch["series"][:, 20:], {"series": batch["series"][:, 1:]})


def test_pictures():
    task, batch = turning("state")
    drawn = task.render(batch["series"][:, 20:] + 0.1, batch)
    assert set(drawn) == {"rollouts", "errors"}
    assert all(x.dtype == np.uint8 and x.ndim == 3 for x in drawn.values())
    blue, white, red = pictures.diverging(np.array([-9.0, 0.0, 9.0])).astype(int)
    assert white.tolist() == [255, 255, 255]
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_arms_and_seeds_in_one_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr(jax, "jit", quick.jit)
    fields = {f"data.{name}": value for name, value in QUICK.items()} | {
        "data.context": 20, "task.lags": "(1, 4)", "optimizer.schedule_args.warmup": 1,
    }
    benchmark.main([
        "--systems", "three_tier", "--arms", "GRU", "--seeds", "2", "--updates", "3",
        "--batch", "2", "--parameters", "700", f"--out={tmp_path}",
        "--set", *[f"{name}={value}" for name, value in fields.items()],
    ])  # fmt: skip
    capsys.readouterr()
    (path,) = tmp_path.glob("*.json")
    rows = {row["arm"]: row for row in json.loads(path.read_text())["rows"]}
    assert {"persistence", "linear_4", "GRU"} <= set(rows)
    assert 500 < rows["GRU"]["parameters"] < 900
    assert rows["GRU"]["vpt_sd"] is not None
    assert rows["persistence"]["vpt_sd"] is None
    assert "| GRU |" in path.with_suffix(".md").read_text()


def test_a_part_is_worth_what_its_arm_gains():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, (3, 7))
    (row,) = benchmark.compare({"GRU": base, "GRU+NG": base + 0.5})
    assert (row["part"], row["seeds_better"], row["seeds"]) == ("gating of GRU", 3, 3)
    assert row["gain"] == pytest.approx(0.5)
    assert row["standard_error"] == pytest.approx(0, abs=1e-6)
    assert "| gating of GRU | 0.5 |" in benchmark.markdown("x", [row])
