"""Every system's config and recipe: sizes at paper scale, ablations, and one run from nothing."""

import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.__main__ import systems
from stjax.tasks.base import phases
from stjax.train import cli, flops, plan
from stjax.train.config import configured, override

SLUGS = [row["slug"] for row in systems()]
MANY_ARMS = 20
# What makes the data of a paper at hand, made where they are files.
OFFLINE = {
    "ct_d2gan": {"data.source": "surveillance"},
    "deconstructing": {
        "data.trajectories": "2", "data.steps": "80", "data.transient": "0", "data.count_test": "1",
    },
    "gdkvm": {"data.source": "heart"},
    "lmm_vqa": {"data.source": "made", "data.tokenizer": "words"},
    "lumos1": {},
    "spatially_aware_transformer": {},
    "storm": {"data.source": "street"},
    "sttn": {"data.source": "made"},
}


def modules(slug):
    config = importlib.import_module(f"configs.{slug}")
    return config, importlib.import_module(f"experiments.{slug}").experiment


def offline(slug):
    """What makes a config's data at hand."""
    return {**OFFLINE.get(slug, {"data.digits": "sklearn"}), "run.workers": "0"}


def batch_of_one(experiment):
    """Shapes alone, where the data are not at hand."""
    source = experiment.data.train
    record = source.spec if hasattr(source, "spec") else source[0]
    return {name: np.asarray(x)[None] for name, x in record.items()}


def abstract_params(experiment):
    batch = batch_of_one(experiment)
    shapes = jax.eval_shape(experiment.task.init, jax.random.key(0), batch)
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("slug", SLUGS)
def test_paper_scale_has_the_published_number_of_parameters(slug):
    config, build = modules(slug)
    experiment = build(override(config.get_config("paper"), offline(slug)))
    assert abstract_params(experiment) == config.FACTS["parameters"]


@pytest.mark.parametrize("slug", [s for s in SLUGS if "macs" in modules(s)[0].FACTS])
def test_paper_scale_costs_what_was_published(slug):
    config, build = modules(slug)
    task = (experiment := build(override(config.get_config("paper"), offline(slug)))).task
    batch = batch_of_one(experiment)
    key = jax.random.key(0)
    variables = jax.eval_shape(task.init, key, batch)
    macs = flops.count(task.predict, variables, batch, key) / 2
    assert macs == pytest.approx(config.FACTS["macs"], rel=0.01)


def some_arms(slug, scale):
    """A step of each arm is traced, at tiny; of very many, only with the slow tests."""
    arms = {"default": {}, **(modules(slug)[0].ablations() if scale == "tiny" else {})}
    if len(arms) <= MANY_ARMS:
        return [pytest.param(slug, scale, arms, id=f"{slug}-{scale}")]
    return [
        pytest.param(
            slug, scale, {name: fields}, id=f"{slug}-{scale}-{name}",
            marks=() if name == "default" else pytest.mark.slow,
        )
        for name, fields in arms.items()
    ]


@pytest.mark.parametrize(
    ("slug", "scale", "arms"),
    [case for slug in SLUGS for scale in ("tiny", "small") for case in some_arms(slug, scale)],
)
def test_a_training_step_of_each_arm_can_be_traced(slug, scale, arms):
    config, build = modules(slug)
    for name, fields in arms.items():
        assignments = offline(slug) | {field: str(value) for field, value in fields.items()}
        experiment = build(configured(config.get_config, scale, assignments))
        batch = batch_of_one(experiment)
        key = jax.random.key(0)
        variables = jax.eval_shape(experiment.task.init, key, batch)
        for phase in phases(experiment.task):
            loss, _ = jax.eval_shape(phase.loss, variables, batch, key, np.int32(0))
            assert loss.shape == (), f"{slug} {scale} {name} {phase.name}"


def test_published_counts_of_convs5_and_its_baselines():
    config, build = modules("convs5")
    shorter = {"model.features": "128", "convs5.state_size": "128"}
    arms = {
        "convs5 600": shorter,
        "convlstm": {"model.mixer": "convlstm"},
        "convlstm 600": {"model.mixer": "convlstm", **shorter},
        "transformer": {"model.mixer": "transformer"},
    }
    for name, fields in arms.items():
        experiment = build(override(config.get_config("paper"), offline("convs5") | fields))
        assert abstract_params(experiment) == config.FACTS["parameters_of"][name], name


def test_one_command_trains_evaluates_draws_and_reports(tmp_path, capsys):
    config, build = modules("predformer")
    fields = {
        "model.layers": 1, "model.dim": 16, "model.heads": 2, "model.head_dim": 8,
        "train.steps": 4, "train.batch": 8, "test.count_test": 10, "run.eval_batch": 8,
        "run.mesh.data": 1,
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    cli.main(build, config, ["train", f"--workdir={tmp_path}", *arguments])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["best_trivial"] in report["trivial"]
    assert {path.split(".")[-1] for path in report["pictures"]} == {"png", "gif"}
    assert "of the best trivial predictor's" in capsys.readouterr().out.splitlines()[-1]
    cli.main(build, config, ["predict", f"--workdir={tmp_path}", *arguments])
    assert str(tmp_path / "media") in capsys.readouterr().out
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["predictions"].shape == (8, 5, 16, 16, 1)
        assert arrays["video"].shape == (8, 10, 16, 16, 1)


def test_a_paper_is_planned_without_its_data(monkeypatch, tmp_path):
    """MNIST is not at hand; a plan needs its shapes alone."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config, build = modules("predformer")
    fields = {"model.layers": "1", "train.batch": "8", "run.mesh.fsdp": "2"}
    costs = plan.plan(build(override(config.get_config("paper"), fields)))
    assert costs.devices == {"data": 4, "fsdp": 2}
    # Nearly all parameters are matrices, cut in half over fsdp.
    assert costs.params_bytes < 0.6 * 4 * costs.parameters
    assert {axes for _, axes in costs.collectives} >= {("fsdp",), ("data", "fsdp")}


def test_the_list_of_systems():
    out = subprocess.run(
        [sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True
    ).stdout
    assert all(slug in out for slug in SLUGS)
