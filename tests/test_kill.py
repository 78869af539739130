"""A run that is killed again and again ends with the parameters of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import predformer
from stjax.train.config import override
from stjax.train.fit import Session

STEPS, KILLS = 3_000, 20
FIELDS = {
    "data.size": "8", "data.digit_size": "4", "data.context": "2", "data.horizon": "2",
    "model.layers": "1", "model.patch": "4", "model.dim": "8", "model.heads": "1",
    "model.head_dim": "8", "train.batch": "4", "train.steps": str(STEPS),
    "test.count_test": "8", "run.eval_batch": "8", "run.checkpoint_every": "10",
    "run.mesh.data": "1",
}


def start(workdir, cache):
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    command = [sys.executable, "-m", "experiments.predformer", f"--workdir={workdir}", *fields]
    environment = {
        **os.environ,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "",
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def newest(workdir):
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def kill_at_random(workdir, cache, draw):
    """Kills the run some time after it has gone on past what was saved before."""
    before, process = newest(workdir), start(workdir, cache)
    while newest(workdir) <= before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.7))
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"ended before it was killed: {said}"


def final_params(workdir):
    config = override(predformer.predformer.get_config("tiny"), FIELDS)
    with Session(predformer.experiment(config), workdir) as session:
        state = jax.device_get(session.restore())
    assert int(state.step) == STEPS
    return jax.tree.leaves(state)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    cache, draw = tmp_path / "cache", random.Random(0)
    undisturbed = start(tmp_path / "undisturbed", cache)
    _, said = undisturbed.communicate()
    assert undisturbed.returncode == 0, said
    for _ in range(KILLS):
        kill_at_random(tmp_path / "killed", cache, draw)
    assert newest(tmp_path / "killed") < STEPS
    survivor = start(tmp_path / "killed", cache)
    _, said = survivor.communicate()
    assert survivor.returncode == 0, said
    expected, params = final_params(tmp_path / "undisturbed"), final_params(tmp_path / "killed")
    assert all(np.array_equal(a, b) for a, b in zip(expected, params))
