"""The main system learns alike on one device, on meshes of several under jit, and under pmap."""

import json

import pytest

from experiments import convs5
from stjax.train.config import override
from stjax.train.fit import Session, fit

SMALL = {
    "data.size": "8", "data.digit_size": "4", "data.context": "3", "data.horizon": "2",
    "model.features": "16", "model.encoder_depths": "(8, 16)", "model.decoder_depths": "(8, 16)",
    "model.groups": "4", "convs5.state_size": "16", "optimizer.schedule_args.warmup": "2",
    "train.batch": "16", "train.steps": "8", "test.count_test": "16", "run.eval_batch": "16",
    "run.log_every": "1",
}
WAYS = {
    "one device": {"run.mesh.data": "1"},
    "jit, data 4 x fsdp 2": {"run.mesh.data": "4", "run.mesh.fsdp": "2"},
    "jit, sequence 2": {"run.mesh.data": "1", "run.mesh.sequence": "2"},
    "jit, data 2 x sequence 4": {
        "run.mesh.data": "2", "run.mesh.sequence": "4", "train.accumulate": "8"
    },
    "pmap on 8": {"run.mesh.data": "8", "run.parallelism": "pmap"},
}


def curve(workdir, fields):
    config = override(convs5.convs5.get_config("tiny"), SMALL | fields)
    with Session(convs5.experiment(config), workdir) as session:
        fit(session)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.slow
def test_many_ways_one_curve(tmp_path):
    curves = {name: curve(tmp_path / str(k), f) for k, (name, f) in enumerate(WAYS.items())}
    expected = curves.pop("one device")
    assert len(expected) == 8
    assert expected[-1] < expected[0]
    for name, losses in curves.items():
        assert losses == pytest.approx(expected, rel=1e-4), name
