"""Checkpoints and constructor arguments of OpenSTL's recurrent predictors.

(github.com/chengtan9907/OpenSTL.) Methods go by the official names: convlstm, predrnn, predrnnpp,
predrnnv2, mim, e3dlstm.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from stjax.convert.rules import Rule
from stjax.models.prediction.convlstm import ConvLSTM
from stjax.models.prediction.e3d_lstm import E3DLSTM
from stjax.models.prediction.mim import MIM
from stjax.models.prediction.predrnn import PredRNN
from stjax.models.prediction.predrnnpp import PredRNNpp

# The convolutions of a layer: official name -> ours. After ".0", a gates', ".1" is its norm.
_ST_LSTM = {
    "conv_x.0": "x", "conv_h.0": "hidden", "conv_m.0": "memory", "conv_o.0": "output",
    "conv_last": "merge",
}
_MIM_UNIT = {"conv_x_concat.0": "x", "conv_h_concat.0": "hidden"}
_GATES = {
    "convlstm": {"conv_x.0": "input", "conv_h.0": "hidden"},
    "predrnn": _ST_LSTM,
    "predrnnv2": _ST_LSTM,
    "predrnnpp": {
        "conv_x.0": "x", "conv_h.0": "hidden", "conv_c.0": "cell", "conv_m.0": "memory",
        "conv_c2m.0": "new_cell", "conv_om.0": "new_memory", "conv_last": "merge",
    },
    "mim": {
        "conv_x_cc.0": "x", "conv_t_cc.0": "hidden", "conv_s_cc.0": "memory",
        "conv_last": "merge",
    },
    "e3dlstm": {
        "conv_x.0.conv3d": "x", "conv_h.0.conv3d": "hidden", "conv_gm.0.conv3d": "memory",
        "conv_new_cell.0.conv3d": "new_cell", "conv_new_gm.0.conv3d": "new_memory",
    },
}

# Allocated, and never read.
_OUTPUT = tuple(f"cell_list.{{i}}.conv_o.{name}" for name in ("0.weight", "1.weight", "1.bias"))
LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "convlstm": (*_OUTPUT, "cell_list.{i}.conv_last.weight"),
    "predrnn": (),
    "predrnnpp": _OUTPUT,
    "predrnnv2": (),
    "mim": ("stlstm_layer_diff.{i}.conv_last.weight",),
    "e3dlstm": (),
}


def module(method: str, config: Mapping[str, Any], release: str = "v0.3.0") -> nn.Module:
    """Our model from the official arguments, as the release has it; v0.3.0's results are published.

    Raises:
        ValueError: E3D-LSTM with `layer_norm`, whose norms there differ between window's frames.
    """
    if method == "e3dlstm" and config["layer_norm"]:
        raise ValueError("layer_norm: E3D-LSTM's gates are not normalised here as OpenSTL does it")
    old = release == "v0.3.0"
    cls, options = {
        "convlstm": (ConvLSTM, {"output": "candidate" if old else "tanh_cell"}),
        "predrnn": (PredRNN, {}),
        "predrnnv2": (PredRNN, {"decoupling": config.get("decouple_beta")}),
        "predrnnpp": (PredRNNpp, {"gated_by": "memory" if old else "cell"}),
        "mim": (MIM, {"detached": True}),
        "e3dlstm": (
            E3DLSTM,
            {
                "recalled": config.get("total_length", 20) - 1,
                "recall": "scrambled",
                "frozen_memory": True,
            },
        ),
    }[method]
    return cls(
        hidden=tuple(config["num_hidden"]),
        patch=config["patch_size"],
        kernel_size=config["filter_size"],
        layer_norm=bool(config["layer_norm"]),
        **options,
    )


def rules(method: str, config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of the method's `..._Model`."""
    return tuple(_rules(method, config))


def unused_parameters(method: str, config: Mapping[str, Any]) -> int:
    """How many of the official model's parameters are never read, and have no place in ours."""
    _, _, height, width = config["in_shape"]
    norm = 2 * height * width // config["patch_size"] ** 2 if config["layer_norm"] else 0
    output = lambda n: 2 * n**2 * config["filter_size"] ** 2 + n * norm
    merge = lambda n: 2 * n**2
    count, widths = 0, config["num_hidden"]
    if method in ("convlstm", "predrnnpp"):
        count += sum(map(output, widths))
    if method in ("convlstm", "mim"):
        count += sum(map(merge, widths[1 if method == "mim" else 0 :]))
    return count


def _rules(method: str, config: Mapping[str, Any]) -> Iterator[Rule]:
    cell, volume = "params/rollout/cell", method == "e3dlstm"
    kernel = "o i t h w -> h w (t i) o" if volume else "o i h w -> h w i o"
    rule = lambda official, ours: Rule(
        f"{official}.weight", f"{cell}/{ours}/kernel", kernel, {"t": 2} if volume else {}
    )
    yield rule("conv_last", "readout")
    if method == "predrnnv2":
        yield rule("adapter", "decoupling/adapter")
    for official, ours, convolutions in _layers(method, len(config["num_hidden"])):
        path = f"{cell}/{ours}"
        for name, mine in convolutions.items():
            yield rule(f"{official}.{name}", f"{ours}/{mine}")
            if config["layer_norm"] and name.endswith(".0"):
                yield from _norm(f"{official}.{name[:-1]}1", f"{path}/{mine}_norm")
        if convolutions is _MIM_UNIT:
            n = config["num_hidden"][0]
            both = f"{path}/input", f"{path}/forget"
            yield Rule(f"{official}.ct_weight", both, "c h w -> h w c", axis=2, sections=(n, n))
            yield Rule(f"{official}.oc_weight", f"{path}/output", "c h w -> h w c")
        if volume:
            yield from _norm(f"{official}._norm_c_t", f"{path}/norm", "c t h w -> h w (t c)")
            merge = f"{official}.conv_last.conv3d.weight", f"{path}/merge/kernel"
            yield Rule(*merge, "o i 1 1 1 -> 1 1 i o")


def _norm(official, ours, pattern="c h w -> h w c"):
    """LayerNorm over whole maps."""
    for theirs, mine in (("weight", "scale"), ("bias", "bias")):
        yield Rule(f"{official}.{theirs}", f"{ours}/{mine}", pattern, {"t": 2})


def _layers(method, depth):
    """Official name of a layer, ours, and its convolutions."""
    gates = _GATES[method]
    for i in range(depth):
        if method != "mim":
            yield f"cell_list.{i}", f"layer_{i}", gates
        elif i == 0:
            yield "stlstm_layer.0", "layer_0", _ST_LSTM
        else:
            yield f"stlstm_layer.{i}", f"layer_{i}", gates
            yield f"stlstm_layer.{i}", f"layer_{i}/stationary", _MIM_UNIT
            yield f"stlstm_layer_diff.{i - 1}", f"layer_{i}/nonstationary", _MIM_UNIT
    if method == "predrnnpp":
        yield "gradient_highway", "highway", {"x_concat.0": "x", "z_concat.0": "state"}
