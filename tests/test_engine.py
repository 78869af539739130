"""Training, stopping, resuming, saving and refusing, with a toy system."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from stjax.train import mesh as meshes
from stjax.train import state as states
from stjax.train.cli import main
from stjax.train.config import configured, override
from stjax.train.errors import RunError
from stjax.train.fit import Session, Stopped, fit
from tests import toy


def session(workdir, **fields):
    overrides = {name.replace("__", "."): str(value) for name, value in fields.items()}
    return Session(toy.experiment(override(toy.get_config(), overrides)), workdir)


def run(workdir, **fields):
    """Trains the toy system; returns its last state."""
    with session(workdir, **fields) as opened:
        return jax.device_get(fit(opened)[0])


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, run(workdir)


def test_training_lowers_the_loss_and_evaluates_exactly(undisturbed):
    workdir, state = undisturbed
    curve = losses(workdir)
    assert curve[12] < 0.7 * curve[4]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    error = next(line["error"] for line in lines if line["split"] == "test")
    test = toy.Points(23)
    x, y = (np.stack([test[i][name] for i in range(23)]) for name in ("x", "y"))
    prediction = toy.Network().apply({"params": state.params}, x)
    assert error == pytest.approx(float(np.square(prediction - y).mean()), rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"run__mesh__data": 4, "run__mesh__fsdp": 2},
        {"run__mesh__data": 8, "run__parallelism": "pmap"},
        {"train__accumulate": 4},
    ],
    ids=["data 4 x fsdp 2", "pmap on 8", "accumulate 4"],
)
def test_the_curve_does_not_depend_on_how_the_batch_is_spread(tmp_path, undisturbed, fields):
    run(tmp_path, **fields)
    expected = losses(undisturbed[0])
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(expected[step], rel=1e-5)


def test_fsdp_cuts_parameters_and_moments(tmp_path):
    with session(tmp_path, run__mesh__data=4, run__mesh__fsdp=2) as opened:
        kernels = [x for x in jax.tree.leaves(opened.abstract_state) if x.shape == (64, 64)]
    assert len(kernels) == 3  # the parameter and Adam's two moments
    assert all(x.sharding.shard_shape(x.shape) != x.shape for x in kernels)


def test_a_checkpoint_of_one_mesh_continues_on_another(tmp_path, undisturbed):
    run(tmp_path)
    with session(tmp_path, run__mesh__data=2, run__mesh__fsdp=4) as opened:
        assert same(jax.device_get(opened.restore()), undisturbed[1])


def test_sigterm_saves_and_the_same_command_goes_on_bit_for_bit(tmp_path, undisturbed, monkeypatch):
    source = toy.Points.__getitem__

    def terminating(self, index):
        if index == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return source(self, index)

    monkeypatch.setattr(toy.Points, "__getitem__", terminating)
    with pytest.raises(Stopped, match=r"stopped at step \d+ by SIGTERM"):
        run(tmp_path)
    monkeypatch.setattr(toy.Points, "__getitem__", source)
    assert same(run(tmp_path), undisturbed[1])
    steps = list(losses(tmp_path))
    assert steps == sorted(set(steps))
    assert steps[-1] == 12


def test_the_moving_average_is_what_is_evaluated():
    task = toy.Regression(toy.Network())
    batch = {name: x[None] for name, x in toy.Points(1)[0].items()}
    before = states.create(task, optax.sgd(0.1), jax.random.key(0), batch, ema=0.75)
    first = jax.device_get(before.params)
    after, _ = states.update(task, optax.sgd(0.1), before, batch, jax.random.key(1), ema=0.75)
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, first, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, after.ema)
    assert after.variables["params"] is after.ema


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(RunError, match="step 6: loss not finite"):
        run(tmp_path, task__explode_at=6)
    with session(tmp_path, task__explode_at=6) as opened:
        assert opened.checkpoints.steps == [4]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, undisturbed, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed[0], workdir)
    newest = workdir / "checkpoints" / "12"
    for file in newest.rglob("*"):
        if file.is_file() and "state" in file.parts and file.stat().st_size > 500:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (workdir / "checkpoints" / "99").mkdir()  # an empty folder named like a step
    assert same(run(workdir), undisturbed[1])
    said = capsys.readouterr().err
    assert "checkpoint 12 is damaged" in said
    assert "continuing from the checkpoint of step 8" in said


def test_the_best_checkpoint_is_kept(tmp_path):
    fields = {"train__steps": 24, "run__eval_every": 4, "optimizer__peak": 0.3}
    run(tmp_path, **fields)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = {line["step"]: line["error"] for line in lines if line["split"] == "test"}
    best = min(errors, key=errors.get)
    with session(tmp_path, **fields) as opened:
        assert opened.checkpoints.best == best
        assert set(opened.checkpoints.steps) == {best, 20, 24}


def test_a_directory_of_another_config_is_refused(undisturbed):
    with pytest.raises(RunError, match=r"model.width: 32, not 64"):
        run(undisturbed[0], model__width=32)


def test_a_damaged_record_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(RunError, match=r"no data for step \d+: points.bin: record 7 is truncated"):
        run(tmp_path, data__broken=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.widht=3"], r"unknown config field 'model.widht'; did you mean model.w"),
        (["--config.model=3"], r"unknown config field 'model'"),
        (["--config.train.batch=many"], r"'train.batch' is of type int \(16\); 'many' is str"),
        (["--config.train.batch=2.5"], r"'train.batch' is of type int \(16\); '2.5' is float"),
        (["--config.train.batch=18", "--config.run.mesh.data=4"], r"train.batch: 18 is not divis"),
        (["--config.run.mesh.data=16"], r"needs 16 devices; there are 8"),
        (["--config.run.parallelism=xmap"], r"'xmap' is none of \('jit', 'pmap'\)"),
        (["--config.optimizer.peak=high"], r"'optimizer.peak' is of type float"),
        (["evaluate"], r"holds no checkpoint; train first"),
    ],
)
def test_bad_input_gives_one_clear_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main(toy.experiment, toy.CONFIGS, [*arguments, f"--workdir={tmp_path}"])
    assert exit_.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.search(message, said[0])


def test_verbs_leave_report_and_pictures(tmp_path, capsys):
    main(toy.experiment, toy.CONFIGS, ["train", f"--workdir={tmp_path}"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["step"] == 12
    assert report["ratio_to_best_trivial"] == pytest.approx(
        report["metrics"]["error"] / report["trivial"]["mean"]["error"]
    )
    assert all((tmp_path / path).stat().st_size for path in report["pictures"])
    assert str(tmp_path / "report.json") in capsys.readouterr().out.splitlines()[-1]
    assert any(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
    main(toy.experiment, toy.CONFIGS, ["evaluate", "--checkpoint=best", f"--workdir={tmp_path}"])
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["metrics"] == report["metrics"]


def test_a_benchmark_runs_what_is_not_finished_and_says_what_failed(tmp_path, capsys):
    call = ["benchmark", "--arms=default,narrow,broken", f"--workdir={tmp_path}"]
    written = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(toy.experiment, toy.CONFIGS, call)
        assert "arms that failed: broken" in capsys.readouterr().err
        written.append((tmp_path / "default" / "report.json").stat().st_mtime_ns)
    assert written[0] == written[1]
    rows = {row["arm"]: row for row in json.loads((tmp_path / "benchmark.json").read_text())}
    assert "record 7 is truncated" in rows["broken"]["failed"]
    assert rows["narrow"]["parameters"] == 64 * 8 + 8 + 8 + 1
    assert rows["narrow"]["mmacs"] == pytest.approx((64 * 8 + 8) / 1e6)
    report = json.loads((tmp_path / "default" / "report.json").read_text())
    assert rows["default"]["error"] == report["metrics"]["error"]
    assert min(rows["default"]["step_ms"], rows["default"]["predict_ms"]) > 0
    lines = (tmp_path / "benchmark.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    assert (tmp_path / "benchmark.png").stat().st_size
    with pytest.raises(SystemExit):
        main(toy.experiment, toy.CONFIGS, ["benchmark", "--arms=wide", f"--workdir={tmp_path}"])
    assert "wide not among default, narrow, broken" in capsys.readouterr().err


def test_a_field_that_decides_what_others_there_are():
    wide = configured(toy.get_config, "tiny", {"width": "96", "train.batch": "8"})
    assert (wide.model.width, wide.train.batch) == (96, 8)
    with pytest.raises(ValueError, match=r"unknown config field 'model.height'"):
        configured(toy.get_config, "tiny", {"width": "96", "model.height": "8"})


def test_mesh_sizes_are_checked():
    assert meshes.make({"data": -1, "fsdp": 2}).shape["data"] == 4
    with pytest.raises(ValueError, match="unknown axes"):
        meshes.make({"model": 2})
    with pytest.raises(ValueError, match="only one axis"):
        meshes.make({"data": -1, "fsdp": -1})


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a tmpfs")
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        with pytest.raises(RunError, match=r"No space left on device.*intact"):
            run(disk / "run", train__steps=400, run__keep_last=50)
        saved = max(map(int, re.findall(r"\d+", " ".join(os.listdir(disk / "run/checkpoints")))))
        shutil.copytree(disk / "run", tmp_path / "rescued")
        with session(tmp_path / "rescued", train__steps=400, run__keep_last=50) as opened:
            assert 4 <= int(opened.restore().step) <= saved
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_import_is_quick_and_without_tensorflow():
    code = "import time; t=time.time(); import stjax, sys; " \
           "assert time.time()-t < 2 and 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
