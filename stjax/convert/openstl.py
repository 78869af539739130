"""OpenSTL's checkpoints (github.com/chengtan9907/OpenSTL) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.models.prediction.convlstm import ConvLSTM

# Allocated in every ConvLSTM cell, and never read.
CONVLSTM_LEFT_OUT = (
    "cell_list.{i}.conv_o.0.weight",
    "cell_list.{i}.conv_o.1.weight",
    "cell_list.{i}.conv_o.1.bias",
    "cell_list.{i}.conv_last.weight",
)


def convlstm_module(config: Mapping[str, Any], release: str = "v0.3.0") -> ConvLSTM:
    """Our ConvLSTM from the official arguments; v0.3.0, the published results, shows candidates."""
    return ConvLSTM(
        hidden=tuple(config["num_hidden"]),
        patch=config["patch_size"],
        kernel_size=config["filter_size"],
        output="candidate" if release == "v0.3.0" else "tanh_cell",
        layer_norm=bool(config["layer_norm"]),
    )


def convlstm_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of ConvLSTM_Model."""
    kernel = "o i h w -> h w i o"
    rules = [Rule("conv_last.weight", "params/readout_kernel", kernel)]
    for official, ours in (("conv_x", "input"), ("conv_h", "hidden")):
        name, path = f"cell_list.{{i}}.{official}", f"params/layer_{{i}}/{ours}"
        rules.append(Rule(f"{name}.0.weight", f"{path}_kernel", kernel))
        if config["layer_norm"]:
            rules.append(Rule(f"{name}.1.weight", f"{path}_scale", "c h w -> h w c"))
            rules.append(Rule(f"{name}.1.bias", f"{path}_bias", "c h w -> h w c"))
    return tuple(rules)


def convlstm_unused_parameters(config: Mapping[str, Any]) -> int:
    """How many of the official model's parameters are never read, and have no place in ours."""
    _, _, height, width = config["in_shape"]
    norm = 2 * height * width // config["patch_size"] ** 2 if config["layer_norm"] else 0
    window = config["filter_size"] ** 2 + 1
    return sum(2 * width**2 * window + width * norm for width in config["num_hidden"])
