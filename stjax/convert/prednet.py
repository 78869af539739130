"""PredNet's checkpoints (OpenSTL::PredNet_Model) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d
from stjax.models.prediction.prednet import PredNet

_CELL = "rollout/cell"
# What the published network sets, and ours has no field for.
PUBLISHED = {
    "error_activation": "relu",
    "A_activation": "relu",
    "LSTM_activation": "tanh",
    "LSTM_inner_activation": "hard_sigmoid",
    "weight_mode": "L_0",
}


def module(config: Mapping[str, Any]) -> PredNet:
    """Our PredNet from the official arguments.

    Raises:
        NotImplementedError: representations of other widths than their layers', kernels of several
            sizes, other activations or another weighting of the layers than the published ones.
    """
    sides = {side for name in ("A", "Ahat", "R") for side in config[f"{name}_filt_sizes"]}
    changed = [name for name, value in PUBLISHED.items() if config[name] != value]
    if list(config["stack_sizes"]) != list(config["R_stack_sizes"]) or len(sides) > 1 or changed:
        raise NotImplementedError(f"R_stack_sizes, *_filt_sizes, or {changed}")
    return PredNet(tuple(config["stack_sizes"][1:]), *sides, config["pixel_max"])


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of PredNet_Model."""
    return tuple(_rules(config["stack_sizes"]))


def _rules(widths) -> Iterator[Rule]:
    for k, width in enumerate(widths):
        path = f"params/{_CELL}/gates_{k}"
        for leaf, ours, pattern in (
            ("weight", "kernel", "o i h w -> h w i o"), ("bias", "bias", None)
        ):
            names = tuple(f"{gate}.{k}.{leaf}" for gate in "ifco")
            yield Rule(names, f"{path}/{ours}", pattern, axis=-1, sections=(width,) * 4)
        # Convolutions and their activations take turns.
        yield from conv2d(f"Ahat.{2 * k}", f"{_CELL}/prediction_{k}")
    for k in range(len(widths) - 1):
        yield from conv2d(f"A.{2 * k}", f"{_CELL}/target_{k}")
