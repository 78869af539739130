"""MAU's checkpoints (OpenSTL::MAU_Model) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d, transposed_conv2d
from stjax.models.prediction.mau import MAU

# Allocated, and never read.
LEFT_OUT = ("merge.weight", "merge.bias", "conv_last_sr.weight", "conv_last_sr.bias")
_CELL = "rollout/cell"
_NORMS = {
    "conv_s_next": "spatial_query_norm",
    "conv_s": "spatial_norm",
    "conv_t_next": "temporal_gate_norm",
    "conv_t": "temporal_norm",
}


def module(config: Mapping[str, Any]) -> MAU:
    """Our MAU from the official arguments.

    Raises:
        NotImplementedError: frames folded in patches, or units of different widths.
    """
    hidden = config["num_hidden"]
    if config["patch_size"] != 1 or len(set(hidden)) > 1 or config["stride"] != 1:
        raise NotImplementedError("patches, strides, or units of different widths")
    return MAU(
        features=hidden[0],
        layers=len(hidden),
        kernel_size=config["filter_size"],
        halvings=_halvings(config),
        tau=config["tau"],
        residual=config["cell_mode"] == "residual",
        recall=config["model_mode"] == "recall",
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of MAU_Model."""
    return tuple(_rules(config["num_hidden"][0], _halvings(config)))


def unused_parameters(config: Mapping[str, Any]) -> int:
    """How many of the official model's parameters are never read, and have no place in ours."""
    features, channels = config["num_hidden"][-1], config["in_shape"][1]
    return (2 * features + 1) * features + (2 * channels + 1) * channels


def _halvings(config):
    return config["sr_size"].bit_length() - 1


def _rules(features: int, halvings: int) -> Iterator[Rule]:
    yield from conv2d("encoders.0.encoder_t_conv-1", f"{_CELL}/encoder_0")
    for k in range(halvings):
        yield from conv2d(f"encoders.{k + 1}.encoder_t{k}", f"{_CELL}/encoder_{k + 1}")
        yield from transposed_conv2d(f"decoders.{k}.c_decoder{k}", f"{_CELL}/decoder_{k}")
    yield from conv2d("srcnn.0", f"{_CELL}/readout")
    unit, ours = "cell_list.{i}", f"{_CELL}/unit_{{i}}"
    yield from conv2d(f"{unit}.conv_t.0", f"{ours}/temporal")
    yield from conv2d(f"{unit}.conv_t_next.0", f"{ours}/temporal_gate")
    for leaf, name, pattern in (
        ("weight", "kernel", "o i h w -> h w i o"), ("bias", "bias", None)
    ):
        both = f"{unit}.conv_s_next.0.{leaf}", f"{unit}.conv_s.0.{leaf}"
        sections = features, 3 * features
        path = f"params/{ours}/spatial/{name}"
        yield Rule(both, path, pattern, axis=-1, sections=sections)
    for official, norm in _NORMS.items():
        for leaf, name in (("weight", "scale"), ("bias", "bias")):
            path = f"params/{ours}/{norm}/{name}"
            yield Rule(f"{unit}.{official}.1.{leaf}", path, "c h w -> h w c")
