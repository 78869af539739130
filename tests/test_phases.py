"""A step in several phases, and metrics of a whole set, with tasks whose answers are known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from stjax.data import Splits
from stjax.tasks.base import Aux, Phase
from stjax.train import evaluate
from stjax.train import mesh as meshes
from stjax.train import state as states
from stjax.train.config import override
from stjax.train.experiment import Experiment
from stjax.train.fit import Session, fit
from stjax.train.step import Stepper
from tests import toy

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
BATCH = {"x": X, "weight": np.ones(8, np.float32)}


@dataclasses.dataclass(frozen=True)
class Duel:
    """`judge` follows what it sees of `maker`, and then `maker` follows `judge`."""

    trains: tuple[tuple[str, ...], ...] = (("judge",), ("maker",))
    names: tuple[str, ...] = ("judging", "making")

    headline = "spread"

    @property
    def phases(self):
        losses = (self.judging, self.making)
        return tuple(map(Phase, self.names, losses, self.trains))

    def init(self, key, batch):
        keys = jax.random.split(key, 3)
        width = batch["x"].shape[1]
        draw = lambda key: {"w": jax.random.normal(key, (width,))}
        params = dict(zip(("judge", "maker", "frozen"), map(draw, keys)))
        return {"params": params, "stats": {"seen": jnp.zeros(())}}

    def judging(self, variables, batch, key, step):
        params = variables["params"]
        error = batch["x"] @ (params["judge"]["w"] - params["maker"]["w"])
        updates = {"stats": {"seen": variables["stats"]["seen"] + 1}}
        return jnp.square(error).mean(), Aux({"draw": jax.random.uniform(key)}, updates)

    def making(self, variables, batch, key, step):
        params = variables["params"]
        error = batch["x"] @ (params["maker"]["w"] - params["judge"]["w"] * params["frozen"]["w"])
        updates = {"stats": {"seen": 10 * variables["stats"]["seen"]}}
        return jnp.square(error).mean(), Aux({"draw": jax.random.uniform(key)}, updates)

    def predict(self, variables, batch, key):
        return batch["x"] @ variables["params"]["maker"]["w"]

    def metrics(self, predictions, batch):
        return {"value": (predictions, batch.get("weight", jnp.ones(len(predictions))))}

    def summarise(self, samples):
        assert set(samples) == {"value"}
        return {"spread": float(np.ptp(samples["value"])), "count": len(samples["value"])}

    def render(self, predictions, batch):
        return {}

    def summary(self, batch):
        return batch["x"].mean(0)

    def trivial(self, summary, batch):
        return {"first": batch["x"][:, 0], "mean": batch["x"] @ summary}


RATES = {"judging": optax.sgd(0.1), "making": optax.sgd(0.01)}


def created(task=Duel(), optimizer=RATES, **options):
    return states.create(task, optimizer, jax.random.key(0), BATCH, **options)


def updated(task=Duel(), optimizer=RATES, **options):
    before = created(task, optimizer)
    return before, *states.update(task, optimizer, before, BATCH, jax.random.key(1), **options)


def gradient(loss, params, name, batch=BATCH):
    rest = {"stats": {"seen": jnp.zeros(())}}
    of = lambda part: loss(
        {"params": {**params, name: part}, **rest}, batch, jax.random.key(0), 0
    )[0]
    return jax.grad(of)(params[name])["w"]


def test_each_phase_changes_its_own_and_sees_what_came_before():
    task = Duel()
    before, after, logs = updated()
    params = dict(before.params)
    judge = params["judge"]["w"] - 0.1 * gradient(task.judging, params, "judge")
    np.testing.assert_allclose(after.params["judge"]["w"], judge, rtol=1e-6)
    params["judge"] = {"w": judge}
    maker = params["maker"]["w"] - 0.01 * gradient(task.making, params, "maker")
    np.testing.assert_allclose(after.params["maker"]["w"], maker, rtol=1e-6)
    np.testing.assert_array_equal(after.params["frozen"]["w"], before.params["frozen"]["w"])
    assert after.collections["stats"]["seen"] == 10  # first one more, then ten times as many
    assert set(logs) == {
        f"{name}/{log}" for name in RATES for log in ("loss", "grad_norm", "draw")
    }
    assert logs["judging/draw"] != logs["making/draw"]


def test_the_order_of_phases_counts():
    turned = Duel(trains=(("maker",), ("judge",)), names=("making", "judging"))
    ends = [updated(task)[1].params["judge"]["w"] for task in (Duel(), turned)]
    assert not np.allclose(*ends)


def test_one_optimizer_serves_all_phases_with_a_state_each():
    adam = optax.adam(0.1)
    state = created(optimizer=adam)
    assert {name: set(s[0].mu) for name, s in state.opt_state.items()} == {
        "judging": {"judge"}, "making": {"maker"}
    }
    _, after, _ = updated(optimizer=adam)
    moved = jax.tree.map(lambda a, b: np.abs(a - b), after.params, state.params)
    np.testing.assert_allclose(moved["judge"]["w"], 0.1, rtol=1e-3)
    np.testing.assert_allclose(moved["maker"]["w"], 0.1, rtol=1e-3)


def test_accumulated_phases_are_those_of_the_whole_batch():
    whole, parts = updated()[1:], updated(accumulate=4)[1:]
    for a, b in zip(jax.tree.leaves(whole[0].params), jax.tree.leaves(parts[0].params)):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for name in ("judging/loss", "making/loss", "making/grad_norm"):
        np.testing.assert_allclose(whole[1][name], parts[1][name], rtol=1e-5)


def test_jit_and_pmap_take_the_same_step():
    ends = {}
    for mode in ("jit", "pmap"):
        mesh = meshes.make({"data": 4})
        example = {name: x[:1] for name, x in BATCH.items()}
        stepper = Stepper(Duel(), RATES, mesh, jax.random.key(0), example, mode, ema=0.5)
        batch = BATCH if mode == "pmap" else jax.device_put(BATCH, stepper.batch_sharding)
        state = stepper.place(stepper.create())
        state, logs = stepper.step()(state, batch)
        ends[mode] = stepper.whole(state), {k: v for k, v in logs.items() if "draw" not in k}
    for a, b in zip(*map(jax.tree.leaves, ends.values()), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5)


def test_moments_of_each_phase_lie_where_its_parameters_do(monkeypatch):
    monkeypatch.setattr(meshes, "SMALLEST_SHARDED", 1)
    example = {name: x[:1] for name, x in BATCH.items()}
    stepper = Stepper(Duel(), optax.adam(0.1), meshes.make({"fsdp": 4}), jax.random.key(0), example)
    state = stepper.abstract_state
    for phase, name in (("judging", "judge"), ("making", "maker")):
        (spec,) = {x.sharding.spec for x in jax.tree.leaves(state.opt_state[phase][0].mu)}
        assert spec == state.params[name]["w"].sharding.spec == jax.P("fsdp")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("same", "same")}, r"phases: names \['same', 'same'\]"),
        ({"trains": (("judge",), ("baker",))}, r"phases: making trains \['baker'\]"),
    ],
)
def test_phases_that_cannot_be_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        created(Duel(**fields), optax.sgd(0.1))


@dataclasses.dataclass(frozen=True)
class Rows:
    count: int

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"x": np.random.default_rng(index).standard_normal(4).astype(np.float32)}


def experiment(fields=()):
    config = toy.get_config().unlock()
    config.model, config.task, config.data = {}, {}, {}
    config.optimizer = {
        name: {"peak": peak, "schedule": "constant"}
        for name, peak in (("judging", 0.1), ("making", 0.05))
    }
    config = override(ConfigDict(config), dict(fields))
    return Experiment.from_config(config, Duel(), Splits(Rows(64), Rows(23)))


def test_a_run_of_phases_stops_goes_on_and_reports_on_the_whole_set(tmp_path):
    ends = {}
    for name in ("whole", "stopped"):
        for steps in ("12",) if name == "whole" else ("8", "12"):
            built = experiment({"train.steps": "12"})
            if steps == "8":
                built = dataclasses.replace(
                    built, train=dataclasses.replace(built.train, steps=8)
                )
            with Session(built, tmp_path / name) as session:
                state, ends[name] = fit(session)
                trivial = session.evaluate_trivial()
    assert ends["whole"] == ends["stopped"]
    rows = np.stack([Rows(23)[k]["x"] for k in range(23)])  # the last batch is padded
    predictions = rows @ np.asarray(state.params["maker"]["w"])
    assert ends["whole"]["count"] == 23
    assert ends["whole"]["spread"] == pytest.approx(np.ptp(predictions), rel=1e-5)
    assert trivial["first"]["spread"] == pytest.approx(np.ptp(rows[:, 0]))
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if line["split"] == "train")
    assert last["judging/learning_rate"] == pytest.approx(0.1)
    assert last["making/learning_rate"] == pytest.approx(0.05)


def test_optimizers_of_other_phases_are_refused():
    config = toy.get_config().unlock()
    config.optimizer = {"judging": {"peak": 0.1}, "cooking": {"peak": 0.1}}
    with pytest.raises(ValueError, match=r"optimizer: sections \['cooking', 'judging'\] for ph"):
        Experiment.from_config(config, Duel(), None)


def test_samples_of_padding_are_left_out():
    found = evaluate.Samples(lambda samples: samples)
    found.add({"x": (np.array([1.0, np.nan]), np.array([1, 0]))})
    found.add({"x": (np.array([3.0]), np.array([1]))})
    np.testing.assert_array_equal(found.result["x"], [1, 3])
