"""DMVFN's checkpoints (OpenSTL v0.3.0) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d, linear
from stjax.models.prediction.dmvfn import DMVFN

# Our names of a block's convolutions, each with a slope behind it.
_CONVS = {
    "conv0.0": "down_0",
    "conv0.1": "down_1",
    "convblock.0": "deep_0",
    "convblock.1": "deep_1",
    "convblock.2": "deep_2",
    "conv_sq": "squeeze",
    "conv1.0": "fine_0",
    "convblock1.0": "fine_1",
}


def module(config: Mapping[str, Any]) -> DMVFN:
    """Our DMVFN from the official arguments."""
    return DMVFN(
        features=tuple(config["num_features"]),
        scales=tuple(config["scale"]),
        routing_features=config["routing_out_channels"],
        beta=config["beta"],
        refined="ungated",
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of DMVFN_Model."""
    del config
    up = "params/block_{i}/up"
    table = [
        Rule("stu.{i}.lastconv.weight", f"{up}/kernel", "i o h w -> h w o i"),
        Rule("stu.{i}.lastconv.bias", f"{up}/bias"),
        *conv2d("routing.routing.0", "routing/conv_0"),
        *conv2d("routing.routing.2", "routing/conv_1"),
        *linear("l1", "routing/out"),
    ]
    for official, ours in _CONVS.items():
        table += conv2d(f"stu.{{i}}.{official}.0", f"block_{{i}}/{ours}/conv")
        table.append(Rule(f"stu.{{i}}.{official}.1.weight", f"params/block_{{i}}/{ours}/slope"))
    return tuple(table)
