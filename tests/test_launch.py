"""The scripts in launch/ start what they say: by themselves, and under a real Slurm."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest
import yaml

from stjax.train import cli
from tests import slurm

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 60
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
# PredFormer, tiny, on the four devices that two processes have.
TOY = {
    "data.size": "8", "data.digit_size": "4", "data.context": "2", "data.horizon": "2",
    "model.layers": "1", "model.patch": "4", "model.dim": "8", "model.heads": "1",
    "model.head_dim": "8", "train.batch": "4", "train.steps": str(STEPS),
    "test.count_test": "8", "run.eval_batch": "8", "run.checkpoint_every": "20",
}


def started(script, tmp_path, program, *arguments, **environment):
    """What a script runs: the arguments of each call of a program that does nothing."""
    (tmp_path / program).write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$@" $JAX_LOCAL_DEVICE_IDS >> {tmp_path}/calls\n'
        f"echo >> {tmp_path}/calls\nexit ${{CODE:-0}}\n"
    )
    (tmp_path / "scontrol").write_text(f"#!/bin/bash\necho $@ > {tmp_path}/scontrolled\n")
    for name in (program, "scontrol"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "launch" / script, *arguments], env={"PATH": path, **environment},
        check=False,
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    return done.returncode, [call.rstrip("\0").split("\0") for call in calls]


def parsed(command):
    """The arguments of `python -m experiments.<slug> ...`, as its own parser takes them."""
    module = next(k for k, word in enumerate(command) if word.startswith("experiments."))
    assert command[module - 1] == "-m"
    assert any(word.startswith("python") for word in command[: module - 1])
    slug = command[module].removeprefix("experiments.")
    assert (ROOT / "experiments" / f"{slug}.py").exists()
    return cli._parse(slug, "", command[module + 1 :])


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_vm.sh"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)


def test_slurm_gets_the_arguments_as_they_were_given(tmp_path):
    arguments = "convs5", "train", "--scale=paper", "--workdir=/a folder", "--config.train.batch=64"
    code, [call] = started("slurm.sh", tmp_path, "srun", *arguments)
    given, overrides = parsed(call)
    assert code == 0
    assert (given.scale, given.workdir, overrides) == ("paper", "/a folder", {"train.batch": "64"})


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (137, False), (143, True)])
def test_slurm_takes_a_job_up_again_that_was_told_to_leave(code, again, tmp_path):
    job = {"CODE": str(code), "SLURM_JOB_ID": "7"}
    assert started("slurm.sh", tmp_path, "srun", "convs5", **job)[0] == code
    assert (tmp_path / "scontrolled").exists() == again


@pytest.mark.parametrize(
    ("tasks", "gpus", "ids"), [("1", "4", "0,1,2,3"), ("4", "4", ""), ("1", "1", ""), ("1", "", "")]
)
def test_a_process_alone_on_its_node_gets_all_gpus(tasks, gpus, ids, tmp_path):
    node = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": gpus}
    _, [call] = started("slurm.sh", tmp_path, "srun", "convs5", **node)
    assert call[-1] == (ids or "experiments.convs5")


def test_a_tpu_slice_gets_the_command_on_all_workers(tmp_path):
    arguments = "slice", "zone", "convs5", "--scale=paper", "--workdir=/a folder"
    _, [start, follow] = started("tpu_vm.sh", tmp_path, "gcloud", *arguments)
    assert {"slice", "--zone=zone", "--worker=all"} <= set(start)
    remote = start[-1].removeprefix("--command=").partition("; ")[2].partition(" >")[0]
    given, _ = parsed(shlex.split(remote))
    assert (given.distributed, given.scale, given.workdir) == (True, "paper", "/a folder")
    assert "--worker=0" in follow


def test_the_job_set_starts_one_process_a_pod():
    manifest = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    name, [job] = manifest["metadata"]["name"], manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value", "2") for entry in container["env"]}
    command = [_expanded(word, variables) for word in container["command"]]
    given, _ = parsed(command)
    assert given.processes == spec["completions"] == spec["parallelism"]
    assert given.process == 2
    host, _, port = given.coordinator.partition(":")
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert [{"containerPort": int(port)}] == container["ports"]
    assert given.workdir.startswith(container["volumeMounts"][0]["mountPath"])


def test_the_documents_commands_are_accepted():
    lines = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    commands = [line for line in lines if re.match("(mpirun .*)?python -m experiments", line)]
    assert len(commands) > 1
    for command in commands:
        parsed(shlex.split(command, comments=True))


def _expanded(word, variables):
    for name, value in variables.items():
        word = word.replace(f"$({name})", value)
    assert "$" not in word
    return word


@pytest.fixture(scope="module")
def little_slurm():
    with contextlib.ExitStack() as stack:
        try:
            environment = stack.enter_context(slurm.running())
        except slurm.Unusable as reason:
            pytest.skip(str(reason))
        yield environment


def submit(environment, workdir, log):
    fields = [f"--config.{name}={value}" for name, value in TOY.items()]
    return slurm.say(
        environment | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        "sbatch", "--parsable", "--nodes=2", f"--chdir={ROOT}", f"--output={log}", "--time=15",
        str(ROOT / "launch" / "slurm.sh"), "predformer", "--devices=2", f"--workdir={workdir}",
        *fields,
    )


def job(environment, number):
    described = slurm.say(environment, "scontrol", "show", "job", number).split()
    return dict(word.split("=", 1) for word in described if "=" in word)


def until(condition, log, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        said = log.read_text() if log.exists() else ""
        assert time.monotonic() < end, f"waited for {seconds} s; the job said: {said[-3000:]}"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_job_that_is_told_to_leave_goes_on_to_the_end(little_slurm, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    number = submit(little_slurm, workdir, log)
    until((workdir / "checkpoints" / "20").exists, log)
    slurm.say(little_slurm, "scancel", "--signal=TERM", number)  # as --signal does
    until(lambda: job(little_slurm, number)["Restarts"] == "1", log)
    until(lambda: job(little_slurm, number)["JobState"] in ENDED, log)
    said = log.read_text()
    assert job(little_slurm, number)["JobState"] == "COMPLETED", said[-3000:]
    assert "stopped at step" in said
    assert "continuing from the checkpoint of step" in said
    report = json.loads((workdir / "report.json").read_text())
    assert report["step"] == STEPS
    assert len(report["devices"]) == 4  # two of each process


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job(little_slurm, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    number = submit(little_slurm, workdir, log)
    until((workdir / "checkpoints" / "20").exists, log)
    [pid] = slurm.processes(little_slurm, SLURM_JOB_ID=number, SLURM_PROCID="1", SLURM_STEP_ID="0")
    os.kill(pid, signal.SIGKILL)
    until(lambda: job(little_slurm, number)["JobState"] in ENDED, log, seconds=60)
    assert job(little_slurm, number)["ExitCode"] == "137:0"
    assert not slurm.processes(little_slurm, SLURM_JOB_ID=number)
