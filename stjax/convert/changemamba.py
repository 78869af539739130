"""ChangeMamba's checkpoints (github.com/ChenHongruixuan/MambaCD) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import norm
from stjax.layers.ss2d import SS2D


def ss2d_module(config: Mapping[str, Any]) -> SS2D:
    """Our SS2D of the official arguments.

    Raises:
        ValueError: a form of SS2D that is not the published one.
    """
    if config["forward_type"] != "v3noz" or config["conv_bias"]:
        raise ValueError(f"config: {config} is not SS2D without gate and bias, 'v3noz'")
    rank = config["dt_rank"]
    return SS2D(
        state_size=config["d_state"],
        expansion=config["ssm_ratio"],
        step_rank=None if rank == "auto" else rank,
        kernel_size=config["d_conv"],
    )


def ss2d_rules(official: str = "", ours: str = "") -> tuple[Rule, ...]:
    """The table of SS2D, both names below the given prefixes."""
    path = f"params/{ours}"
    return (
        Rule(f"{official}x_proj_weight", f"{path}project", "k r d -> k d r"),
        Rule(f"{official}dt_projs_weight", f"{path}to_step", "k d r -> k r d"),
        Rule(f"{official}dt_projs_bias", f"{path}step_bias"),
        Rule(f"{official}A_logs", f"{path}log_rates"),
        Rule(f"{official}Ds", f"{path}skip"),
        *norm(f"{official}out_norm", f"{ours}norm"),
        Rule(f"{official}in_proj.weight", f"{path}in/kernel", "o i -> i o"),
        Rule(f"{official}conv2d.weight", f"{path}kernel", "c 1 h w -> h w c"),
        Rule(f"{official}out_proj.weight", f"{path}out/kernel", "o i -> i o"),
    )
