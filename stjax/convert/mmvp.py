"""MMVP's checkpoints (OpenSTL v1.0.0) and constructor arguments."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, conv2d, pointwise
from stjax.models.prediction.mmvp import MMVP

# Allocated, and never read; counters of batches.
LEFT_OUT = (
    "hid.scale_fuser_1.up.weight",
    "hid.scale_fuser_1.up.bias",
    "hid.scale_fuser_1.conv.conv.0.weight",
    *(f"hid.scale_fuser_2.{{i}}.{name}" for name in (
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    )),
    "hid.predictor.fuse_conv.weight",
    "filter.filter_block.{i}.{j}.num_batches_tracked",
    "hid.predictor.predictor.bn{i}_1.num_batches_tracked",
    "hid.predictor.predictor.bn_pre_{i}.num_batches_tracked",
    "hid.predictor.predictor.bn_translate.num_batches_tracked",
    "hid.predictor.predictor.conv3d_1.bn3d.num_batches_tracked",
    "hid.predictor.predictor.temporal_layer.bn3d.num_batches_tracked",
)
_CLIPS = "o i t h w -> t h w i o"


def module(config: Mapping[str, Any]) -> MMVP:
    """Our MMVP from the official arguments."""
    names = ("hid_S", "hid_T", "rrdb_encoder_num", "rrdb_decoder_num", "rrdb_enhance_num")
    return MMVP(
        horizon=config["aft_seq_length"], **{name: config[name] for name in names if name in config}
    )


def unused_parameters(config: Mapping[str, Any]) -> int:
    """How many of the official model's parameters are never read, and have no place in ours."""
    space, time = config["hid_S"], config["hid_T"]
    fuse_up = 2 * space * space * 4 + space + 2 * space * space * 9
    fuse_out = 2 * (space * space * 9 + space + 2 * space)
    return fuse_up + fuse_out + 2 * time * time * 9


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of MMVP_Model."""
    steps = config["in_shape"][0] - 1
    # Pixels of a patch stand behind the channel there, before it here.
    patch, pixels = {"p": 2, "q": 2}, "o (c p q) h w -> h w (p q c) o"
    table = [
        Rule("enc.inconv.weight", "params/encoder_in/kernel", pixels, patch),
        Rule("enc.inconv.bias", "params/encoder_in/bias"),
        *residual("enc.block_rrdb.{i}", "encoder"),
        *_halving("enc.pre_downsample_block.0", "halving_0"),
        *_halving("enc.downsample_high", "halving_1"),
        *_halving("enc.downsample_low", "halving_2"),
    ]
    for k, name in enumerate(("filter_high", "filter_low")):
        for i in range(3):
            table += conv2d(f"filter.filter_block.{k}.{3 * i}", f"{name}_{i}")
            table += batch_norm(f"filter.filter_block.{k}.{3 * i + 1}", f"{name}_norm_{i}")
    table += _predictor("hid.predictor.", "predictor/", steps, config["aft_seq_length"])
    for k, up in enumerate(("_low2high", ".0", ".1")):
        up = f"dec.upsample_block{up}"
        window = {"r": 2, "s": 2}
        table += [
            Rule(f"{up}.up.weight", f"params/up_{k}/pixels/kernel", "i o r s -> i (r s o)", window),
            Rule(f"{up}.up.bias", f"params/up_{k}/bias"),
            *conv2d(f"{up}.conv.conv.0", f"decoder_{k}")[:1],
        ]
    table += residual("dec.rrdb_block.{i}", "decoder")
    table += pointwise("dec.outc", "decoder_out")
    table += conv2d("enhance.model.0", "enhancer_in")
    enhancer = residual("enhance.model.{i}", "enhancer")
    table += [dataclasses.replace(rule, starts={**rule.starts, "i": 1}) for rule in enhancer]
    table += pointwise("enhance.outconv", "enhancer_out")
    return tuple(table)


def residual(official: str, ours: str) -> Iterator[Rule]:
    """The rows of a stack of RRDBs, official "{i}" of them."""
    for k in range(4):
        for rule in conv2d(f"{official}.RDB{{j}}.conv{k + 1}", f"{ours}/dense/conv_{k}"):
            yield dataclasses.replace(rule, starts={"j": 1})


def _halving(official, ours):
    yield from conv2d(f"{official}.conv1", f"{ours}/conv_0")
    yield from conv2d(f"{official}.conv2", f"{ours}/conv_1")
    yield from pointwise(f"{official}.shortcut", f"{ours}/shortcut")


def _predictor(official, ours, steps, horizon):
    inner = f"{official}predictor."
    yield from conv2d(f"{official}conv1", f"{ours}in")[:1]
    yield from conv2d(f"{official}out_conv", f"{ours}out")[:1]
    layers = {
        "pre_1": "full_0", "pre_2": "full_1", "1_1": "down_0", "2_1": "down_1", "3_1": "up_0",
        "4_1": "up_1",
    }
    for number, name in layers.items():
        separator = "_" if number.startswith("pre") else ""
        yield from conv2d(f"{inner}conv{separator}{number}", f"{ours}{name}")
        yield from batch_norm(f"{inner}bn{separator}{number}", f"{ours}{name}_norm")
    for layer, name in (("conv3d_1", "time_0"), ("temporal_layer", "time_1")):
        yield Rule(f"{inner}{layer}.conv3d.weight", f"params/{ours}{name}/kernel", _CLIPS)
        yield Rule(f"{inner}{layer}.conv3d.bias", f"params/{ours}{name}/bias")
        yield from batch_norm(f"{inner}{layer}.bn3d", f"{ours}{name}_norm")
    sizes, unfold = {"t": steps, "s": horizon}, "(s d) -> s d"
    kernel = f"params/{ours}translate/kernel"
    yield Rule(f"{inner}conv_translate.0.weight", kernel, "(s d) (t c) 1 1 -> t c s d", sizes)
    yield Rule(f"{inner}conv_translate.0.bias", f"params/{ours}translate/bias", unfold, sizes)
    for rule in batch_norm(f"{inner}bn_translate", f"{ours}translate_norm"):
        yield dataclasses.replace(rule, pattern=unfold, sizes=sizes)
