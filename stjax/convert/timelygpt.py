"""TimelyGPT's checkpoints (li-lab-mcgill/TimelyGPT) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import linear
from stjax.layers.retention import MultiScaleRetention

# Tables that follow from the arguments.
RETENTION_LEFT_OUT = ("decay", "xpos.scale")


def retention(config: Mapping[str, Any]) -> MultiScaleRetention:
    """Our retention of the official `RetNetConfig`, continuous time series."""
    heads = config["num_heads"]
    return MultiScaleRetention(
        heads=heads,
        qk_features=config["qk_dim"],
        v_features=config["v_dim"],
        forgetting=(1 / 32, 2.0 ** -(4 + heads) if config["use_default_gamma"] else 1 / 512),
        bias=config["use_bias_in_msr"],
        out_bias=config["use_bias_in_msr_out"],
    )


def retention_rules(
    config: Mapping[str, Any], official: str = "", ours: str = ""
) -> tuple[Rule, ...]:
    """The table of MultiScaleRetention below two prefixes."""
    layers = (
        ("qkv", "qkv", config["use_bias_in_msr"]),
        ("gated", "gate", False),
        ("proj", "proj", config["use_bias_in_msr_out"]),
    )
    return tuple(
        rule
        for theirs, mine, bias in layers
        for rule in linear(f"{official}{theirs}", f"{ours}{mine}")[: 1 + bias]
    )
