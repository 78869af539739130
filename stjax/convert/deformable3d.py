"""Deformable attention in three dimensions.

The module of github.com/minmaxHong/3D-Deformable-Attention, and the token search and attention of
Kim et al. 2023 (arXiv 2212.05638), which has no official code: names are those of a transcription.
"""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import norm
from stjax.layers.deformable_attention import DeformableAttention, SearchedAttention


def detr_module(config: Mapping[str, Any]) -> DeformableAttention:
    """Our layer from the arguments of DeformableAttention3D."""
    return DeformableAttention(config["num_heads"], config["num_points"])


def detr_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of DeformableAttention3D."""
    sizes = {"h": config["num_heads"], "l": config["num_levels"], "p": config["num_points"]}
    return (
        *_heads("sampling_offsets", "offsets", "(h l p a)", sizes),
        *_heads("attention_weights", "weights", "(h l p)", sizes),
        *_heads("key_proj", "value", "(h d)", sizes),
        *_out("output_proj", "out", sizes),
    )


def search_module(config: Mapping[str, Any]) -> SearchedAttention:
    """Our layer from the transcription's arguments, whose stride is that of time and of space."""
    time, space = config["stride"]
    return SearchedAttention(config["heads"], config["groups"], (time, space, space))


def search_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of the transcription: the layer under "attention", the norm before it beside it."""
    sizes = {"h": config["heads"]}
    net = "attention/offsets"
    yield from norm("norm", "norm")
    for name in "qkv":
        yield from _heads(name, f"attention/{name}", "(h d)", sizes)
    yield from _out("out", "attention/out", sizes)
    yield Rule("offset_conv.weight", f"params/{net}/conv/kernel", "o i t h w -> t h w i o")
    yield Rule("offset_conv.bias", f"params/{net}/conv/bias")
    yield from norm("offset_norm", f"{net}/norm")
    yield Rule("offset_out.weight", f"params/{net}/out/kernel", "o i 1 1 1 -> i o")


def _heads(official, ours, outputs, sizes):
    """A linear map to heads; `outputs` says how its outputs come apart."""
    apart = outputs.strip("()")
    yield Rule(f"{official}.weight", f"params/{ours}/kernel", f"{outputs} i -> i {apart}", sizes)
    yield Rule(f"{official}.bias", f"params/{ours}/bias", f"{outputs} -> {apart}", sizes)


def _out(official, ours, sizes):
    """The linear map that brings heads together."""
    yield Rule(f"{official}.weight", f"params/{ours}/kernel", "o (h d) -> h d o", sizes)
    yield Rule(f"{official}.bias", f"params/{ours}/bias")
