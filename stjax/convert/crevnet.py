"""CrevNet's checkpoints (OpenSTL::CrevNet_Model) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm
from stjax.models.prediction.crevnet import CrevNet

LEFT_OUT = ("encoder.stack.{i}.bottleneck_block.{j}.num_batches_tracked",)
_KERNEL = "o i d h w -> d h w i o"
_GATES = {
    "cell_gates": ("in_gate", "remember_gate", "cell_gate"),
    "memory_gates": ("in_gate1", "remember_gate1", "cell_gate1"),
    "out_gate": ("out_gate",),
    "both": ("w1",),
}


def module(config: Mapping[str, Any]) -> CrevNet:
    """Our CrevNet from the official arguments.

    Raises:
        ValueError: an `rnn_size` that the encoder's codes do not have.
    """
    if config["rnn_size"] != 32 * config["in_shape"][1]:
        raise ValueError(f"rnn_size: {config['rnn_size']} for {config['in_shape'][1]} channels")
    return CrevNet(layers=config["predictor_rnn_layers"])


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of CrevNet_Model."""
    return (*_predictor(config["rnn_size"]), *_encoder(sum(CrevNet.blocks)))


def _predictor(width: int) -> Iterator[Rule]:
    for ours, gates in _GATES.items():
        for leaf, name, pattern in (("weight", "kernel", _KERNEL), ("bias", "bias", None)):
            names = tuple(f"frame_predictor.convlstm.{{i}}.{gate}.{leaf}" for gate in gates)
            path = f"params/predictor/cell/cell_{{i}}/{ours}/{name}"
            yield Rule(names, path, pattern, axis=-1, sections=(width,) * len(gates))
    gate, path = "frame_predictor.att.{i}.0", "params/predictor/cell/gate_{i}"
    yield Rule(f"{gate}.weight", f"{path}/kernel", _KERNEL)
    yield Rule(f"{gate}.bias", f"{path}/bias")


def _encoder(blocks: int) -> Iterator[Rule]:
    for block in range(blocks):
        # Places in a list of layers, among which the first block lacks the first two.
        first, ours = 2 * (block == 0), f"encoder/stack_{block}"
        official = f"encoder.stack.{block}.bottleneck_block"
        for k, place in enumerate((2, 5, 9)):
            name = f"{official}.{place - first}.weight"
            yield Rule(name, f"params/{ours}/conv_{k}/kernel", _KERNEL)
        for k, place in enumerate((0, 3, 7)):
            if k or not first:
                yield from batch_norm(f"{official}.{place - first}", f"{ours}/norm_{k}")
