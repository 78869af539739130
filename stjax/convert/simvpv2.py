"""SimVP's checkpoints with MetaFormer translators (OpenSTL) and constructor arguments."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, conv2d, norm, pointwise
from stjax.models.prediction.simvp import GSTABlock, SimVP, Translator

LEFT_OUT = (
    "hid.enc.{i}.block.norm1.num_batches_tracked",
    "hid.enc.{i}.block.norm2.num_batches_tracked",
)


def module(config: Mapping[str, Any]) -> SimVP:
    """Our SimVP from the official arguments.

    Raises:
        NotImplementedError: a translator that does not stand here.
    """
    model_type = (config.get("model_type") or "gsta").lower()
    if model_type != "gsta":
        raise NotImplementedError(f"SimVP's translator {model_type!r}")
    block = functools.partial(
        GSTABlock, mlp_ratio=config.get("mlp_ratio", 8.0), drop=config.get("drop", 0.0)
    )
    translator = functools.partial(
        Translator,
        block=block,
        hid_T=config.get("hid_T", 256),
        N_T=config.get("N_T", 4),
        drop_path=config.get("drop_path", 0.0),
    )
    return SimVP(
        hid_S=config.get("hid_S", 16),
        N_S=config.get("N_S", 4),
        translator=translator,
        spatio_kernel_enc=config.get("spatio_kernel_enc", 3),
        spatio_kernel_dec=config.get("spatio_kernel_dec", 3),
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of SimVP_Model."""
    frames, channels = config["in_shape"][0], config.get("hid_S", 16)
    last = config.get("N_T", 4) - 1
    layers = 2 * (config.get("N_S", 4) // 2)
    table = list(pointwise("dec.readout", "readout"))
    for i in range(layers):
        table += conv2d(f"enc.enc.{i}.conv.conv", f"encoder_{i}/conv")
        table += norm(f"enc.enc.{i}.conv.norm", f"encoder_{i}/norm")
        # The decoder's layers at even places double the resolution.
        conv = "conv.conv" if i % 2 else "conv.conv.0"
        table += conv2d(f"dec.dec.{i}.{conv}", f"decoder_{i}/conv")
        table += norm(f"dec.dec.{i}.conv.norm", f"decoder_{i}/norm")
    for i, name in ((0, "first"), (last, "last")):
        table += gsta_block(f"hid.enc.{i}.block.", f"translator/{name}/block/")
        if frames * channels != config.get("hid_T", 256):
            table += pointwise(f"hid.enc.{i}.reduction", f"translator/{name}/reduction")
    if last > 1:
        middle = gsta_block("hid.enc.{i}.block.", "translator/middle/block/")
        table += [dataclasses.replace(rule, starts={"i": 1}) for rule in middle]
    return tuple(table)


def gsta_block(official: str, ours: str) -> Iterator[Rule]:
    """The rows of GASubBlock below two prefixes."""
    yield from batch_norm(f"{official}norm1", f"{ours}attention_norm")
    yield from gsta_attention(f"{official}attn.", f"{ours}attention/")
    yield from batch_norm(f"{official}norm2", f"{ours}mlp_norm")
    yield from pointwise(f"{official}mlp.fc1", f"{ours}mlp/in")
    yield from _depthwise(f"{official}mlp.dwconv.dwconv", f"{ours}mlp/mix")
    yield from pointwise(f"{official}mlp.fc2", f"{ours}mlp/out")
    yield Rule(f"{official}layer_scale_1", f"params/{ours}attention_scale")
    yield Rule(f"{official}layer_scale_2", f"params/{ours}mlp_scale")


def gsta_attention(official: str, ours: str) -> Iterator[Rule]:
    """The rows of SpatialAttention below two prefixes."""
    unit = f"{official}spatial_gating_unit"
    yield from pointwise(f"{official}proj_1", f"{ours}in")
    yield from _depthwise(f"{unit}.conv0", f"{ours}near")
    yield from _depthwise(f"{unit}.conv_spatial", f"{ours}far")
    yield from pointwise(f"{unit}.conv1", f"{ours}gate")
    yield from pointwise(f"{official}proj_2", f"{ours}out")


def _depthwise(official, ours):
    yield Rule(f"{official}.weight", f"params/{ours}/kernel", "c 1 h w -> h w c")
    yield Rule(f"{official}.bias", f"params/{ours}/bias")
