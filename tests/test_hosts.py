"""Many processes are one run: the same curve, every sample once, and an end for all of them."""

import argparse
import json
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from stjax.train import hosts
from stjax.train import mesh as meshes
from stjax.train.config import override
from stjax.train.feed import Feed
from stjax.train.fit import Session, fit
from tests import processes, toy

# 250 training and 23 test points: neither divides into batches of 16.
DATA = ["--config.data.count=250"]


def session(workdir, **fields):
    fields = {"data.count": 250} | {name.replace("__", "."): x for name, x in fields.items()}
    config = override(toy.get_config(), {name: str(value) for name, value in fields.items()})
    return Session(toy.experiment(config), workdir)


def restored(workdir, **fields):
    with session(workdir, **fields) as opened:
        return jax.device_get(opened.restore())


def metrics(workdir, split):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    name = {"train": "loss", "test": "error"}[split]
    return [line[name] for line in lines if line["split"] == split]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    with session(workdir) as opened:
        fit(opened)
    return workdir


@pytest.mark.parametrize(
    ("count", "mesh"),
    [
        (2, {"data": 2, "fsdp": 2}),
        pytest.param(4, {"fsdp": 4, "tensor": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"data": 2, "sequence": 4}, marks=pytest.mark.slow),
    ],
    ids=lambda value: " x ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict)
    else f"{value} processes",
)
def test_processes_train_like_one(tmp_path, alone, count, mesh):
    axes = [f"--config.run.mesh.{axis}={size}" for axis, size in mesh.items()]
    all_ended = processes.run(*DATA, *axes, f"--workdir={tmp_path}", count=count)
    assert [one.code for one in all_ended] == [0] * count, all_ended[0].err
    assert ["at step 12" in one.out for one in all_ended] == [True] + [False] * (count - 1)
    assert metrics(tmp_path, "train") == pytest.approx(metrics(alone, "train"), rel=1e-6)
    (error,), (expected,) = metrics(tmp_path, "test"), metrics(alone, "test")
    assert f"error          {expected:.4g}\n" in all_ended[0].out
    assert error == pytest.approx(expected, rel=1e-6)
    # The checkpoint that they wrote together, read on one device and on eight cut another way.
    one, eight = restored(tmp_path), restored(tmp_path, run__mesh__data=2, run__mesh__fsdp=4)
    assert int(one.step) == 12
    assert same(one, eight)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, restored(alone)
    )
    # One that they wrote on the way, gone on from on eight devices.
    for step in ("8", "12"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    with session(tmp_path, run__mesh__fsdp=8) as opened:
        fit(opened)
    assert metrics(tmp_path, "train") == pytest.approx(metrics(alone, "train"), rel=1e-6)


def test_every_record_goes_to_one_process():
    all_ended = processes.run(module="tests.test_hosts", count=2)
    assert [one.code for one in all_ended] == [0, 0], all_ended[0].err
    shares = [json.loads(one.out.splitlines()[-1]) for one in all_ended]
    for passed in ("one epoch", "one pass"):
        a, b = (share[passed] for share in shares)
        assert not set(a) & set(b)
        assert sorted(a + b) == list(range(250 if passed == "one epoch" else 23))


def both(field):
    return {0: [field], 1: [field]}


REFUSED = {
    "config": (
        {1: ["--config.model.width=32"]},
        "process 1 has another config than process 0: model.width: 32, not 64",
    ),
    "folder": (
        {1: ["--workdir={other}"]}, r"is not the same folder for all processes \(not for 1 on "
    ),
    "mesh": (both("--config.run.mesh.data=16"), "needs 16 devices; there are 4"),
    "record": (
        both("--config.data.broken=9"), r"no data for step \d+: points.bin: record 9 is truncated"
    ),
    "pmap": (both("--config.run.parallelism=pmap"), "pmap is for one process"),
}
QUICK = ("config", "folder")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, case in REFUSED.items()
    ],
)
def test_what_one_refuses_ends_all_with_one_line(tmp_path, own, message):
    own = {k: [field.format(other=tmp_path / "other") for field in own.get(k, [])] for k in (0, 1)}
    axes = "--config.run.mesh.data=4"
    pair = processes.run(axes, f"--workdir={tmp_path / 'run'}", own=own)
    assert [one.code for one in pair] == [1, 1]
    (line,) = [line for one in pair for line in one.errors]
    assert re.search(message, line)


def test_a_coordinator_that_is_not_there_is_named(tmp_path):
    started = time.monotonic()
    leader, other = processes.start(f"--workdir={tmp_path}", wait=4)
    leader.kill()
    _, late = processes.ended([leader, other])
    assert late.code == 1
    (line,) = late.errors
    address = next(a for a in other.args if a.startswith("--coordinator")).split("=")[1]
    assert f"process 1 met not all others within 4 s at {address}" in line
    assert time.monotonic() - started < 30


LONG = [
    *DATA, "--config.run.mesh.data=2", "--config.run.mesh.fsdp=2", "--config.train.steps=600",
    "--config.run.checkpoint_every=20", "--config.run.log_every=20",
]


def newest(workdir):
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for_progress(workdir, running):
    before = newest(workdir)
    while newest(workdir) <= before and running[0].poll() is None:
        time.sleep(0.02)


def test_sigterm_to_one_saves_on_all(tmp_path):
    running = processes.start(*LONG, f"--workdir={tmp_path}")
    wait_for_progress(tmp_path, running)
    running[1].send_signal(signal.SIGTERM)
    pair = processes.ended(running)
    assert [one.code for one in pair] == [128 + signal.SIGTERM] * 2, pair[0].err
    assert f"stopped at step {newest(tmp_path)} by SIGTERM" in pair[0].err


@pytest.mark.slow
def test_all_pass_over_a_damaged_checkpoint(tmp_path, alone):
    workdir = tmp_path / "run"
    shutil.copytree(alone, workdir)
    for file in (workdir / "checkpoints" / "12").rglob("*"):
        if file.is_file() and "state" in file.parts and file.stat().st_size > 500:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    pair = processes.run(*DATA, "--config.run.mesh.fsdp=4", f"--workdir={workdir}")
    assert [one.code for one in pair] == [0, 0], pair[0].err
    assert "checkpoint 12 is damaged" in pair[0].err
    assert "continuing from the checkpoint of step 8" in pair[0].err
    assert metrics(workdir, "train") == pytest.approx(metrics(alone, "train"), rel=1e-6)


@pytest.mark.slow
def test_ten_kills_of_one_process_change_nothing(tmp_path):
    draw = random.Random(0)
    undisturbed = processes.run(*LONG, f"--workdir={tmp_path / 'undisturbed'}")
    assert [one.code for one in undisturbed] == [0, 0], undisturbed[0].err
    workdir, said = tmp_path / "killed", 0
    for _ in range(10):
        running = processes.start(*LONG, f"--workdir={workdir}")
        wait_for_progress(workdir, running)
        time.sleep(draw.uniform(0, 0.3))
        victim = draw.randrange(2)
        running[victim].kill()
        killed = time.monotonic()
        pair = processes.ended(running)
        assert time.monotonic() - killed < 60
        assert pair[victim].code == -signal.SIGKILL
        assert pair[1 - victim].code not in (0, -signal.SIGKILL)
        if victim == 1:
            (line,) = pair[0].errors
            assert "process 1 " in line
            assert "has not answered" in line
            said += 1
    assert said
    assert newest(workdir) < 600
    survivors = processes.run(*LONG, f"--workdir={workdir}")
    assert [one.code for one in survivors] == [0, 0], survivors[0].err
    fields = {"train__steps": 600}
    assert same(restored(tmp_path / "undisturbed", **fields), restored(workdir, **fields))


def count_records() -> None:
    """One of the processes of `test_every_record_goes_to_one_process`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    for name in ("devices", "wait", "processes", "process"):
        parser.add_argument(f"--{name}", type=int)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    hosts.start(arguments.coordinator, arguments.processes, arguments.process, wait=60)
    mesh = meshes.make({"data": -1})

    def own_ids(source, steps=None, **options):
        feed = Feed(source, 8, meshes.batch_sharding(mesh), **options)
        ids = []
        for _, batch in zip(range(steps or 10**9), feed):
            for part, weight in zip(
                batch["id"].addressable_shards, batch["weight"].addressable_shards
            ):
                ids += np.asarray(part.data)[np.asarray(weight.data) > 0].tolist()
        feed.close()
        return ids

    epoch = own_ids(Numbered(250), shuffle=True)
    print(json.dumps({"one epoch": epoch, "one pass": own_ids(Numbered(23))}))
    hosts.finish()


class Numbered(toy.Points):
    def __getitem__(self, index):
        return {"id": np.int32(index)}


if __name__ == "__main__":
    count_records()
