"""SimVP's checkpoints and constructor arguments: OpenSTL's of all translators, and A4Bio's."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import (
    batch_norm,
    conv2d,
    depthwise,
    linear,
    norm,
    pointwise,
    self_attention,
)
from stjax.models.prediction.simvp import SimVP, translator

LEFT_OUT = (
    "hid.enc.{i}.block.norm{k}.num_batches_tracked",
    "hid.enc.{i}.block.norm_{k}.num_batches_tracked",
    "hid.enc.{i}.block.attn.relative_position_index",
    "hid.enc.{i}.block.attn_mask",
)
ALIASES = {"mlpmixer": "mlp", "moganet": "moga"}


def module(config: Mapping[str, Any]) -> SimVP:
    """Our SimVP from the arguments of SimVP_Model."""
    name = translator_name(config)
    options: dict[str, Any] = {"mlp_ratio": config.get("mlp_ratio", 8.0)}
    if name not in ("incepu", "convnext", "convmixer", "hornet", "uniformer"):
        options["drop"] = config.get("drop", 0.0)
    if name == "swin":
        options["cyclic"] = True
    return SimVP(
        hid_S=config.get("hid_S", 16),
        N_S=config.get("N_S", 4),
        translator=translator(
            name,
            hid_T=config.get("hid_T", 256),
            N_T=config.get("N_T", 4),
            drop_path=config.get("drop_path", 0.0),
            **options,
        ),
        spatio_kernel_enc=config.get("spatio_kernel_enc", 3),
        spatio_kernel_dec=config.get("spatio_kernel_dec", 3),
    )


def first_module(config: Mapping[str, Any]) -> SimVP:
    """Our SimVP from the arguments of the first publication's (github.com/A4Bio/SimVP)."""
    return SimVP(
        hid_S=config.get("hid_S", 16),
        N_S=config.get("N_S", 4),
        translator=translator(
            "incepu",
            hid_T=config.get("hid_T", 256),
            N_T=config.get("N_T", 8),
            groups=config.get("groups", 8),
        ),
        version=1,
    )


def translator_name(config: Mapping[str, Any]) -> str:
    """Our name of the translator that the arguments of SimVP_Model ask for."""
    name = (config.get("model_type") or "gsta").lower()
    return ALIASES.get(name, name)


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of SimVP_Model."""
    name, depth = translator_name(config), config.get("N_T", 4)
    table = _frames(config.get("N_S", 4) // 2 * 2, doubling="conv.conv.0")
    if name == "incepu":
        return (*table, *incepu(depth))
    changes = config["in_shape"][0] * config.get("hid_S", 16) != config.get("hid_T", 256)
    rows = BLOCKS[name]
    ends = UNIFORMER_LOCAL if name == "uniformer" else rows
    for i, ours, end in ((0, "first", ends), (depth - 1, "last", ends if changes else rows)):
        table += block(end, f"hid.enc.{i}.block.", f"translator/{ours}/block/")
        if changes:
            table += pointwise(f"hid.enc.{i}.reduction", f"translator/{ours}/reduction")
    if depth > 2:
        table += _stacked(block(rows, "hid.enc.{i}.block.", "translator/middle/block/"))
    return tuple(table)


def first_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of the first publication's SimVP."""
    frames = _frames(config.get("N_S", 4), doubling="conv.conv")
    return (*frames, *incepu(config.get("N_T", 8)))


def _frames(layers: int, doubling: str) -> list[Rule]:
    """The rows of encoder and decoder; of an even number of layers every other one doubles.

    A transposed convolution's axes stand the other way round on both sides.
    """
    table = list(pointwise("dec.readout", "readout"))
    for i in range(layers):
        table += conv2d(f"enc.enc.{i}.conv.conv", f"encoder_{i}/conv")
        table += norm(f"enc.enc.{i}.conv.norm", f"encoder_{i}/norm")
        conv = "conv.conv" if i % 2 else doubling
        table += conv2d(f"dec.dec.{i}.{conv}", f"decoder_{i}/conv")
        table += norm(f"dec.dec.{i}.conv.norm", f"decoder_{i}/norm")
    return table


def _stacked(rows: Iterable[Rule]) -> list[Rule]:
    """Rows of blocks that are stacked from the second one on."""
    return [dataclasses.replace(rule, starts={"i": 1}) for rule in rows]


def incepu(depth: int) -> Iterator[Rule]:
    """The rows of MidIncepNet and Mid_Xnet."""
    yield from _inception("hid.enc.0.", "translator/first/")
    yield from _inception("hid.dec.0.", "translator/turn/")
    yield from _inception(f"hid.dec.{depth - 1}.", "translator/last/")
    yield from _stacked(_inception("hid.enc.{i}.", "translator/encoder/"))
    if depth > 2:
        yield from _stacked(_inception("hid.dec.{i}.", "translator/decoder/"))


def _inception(official: str, ours: str) -> Iterator[Rule]:
    yield from pointwise(f"{official}conv1", f"{ours}reduction")
    for k, side in enumerate((3, 5, 7, 11)):
        yield from conv2d(f"{official}layers.{k}.conv", f"{ours}conv_{side}")
        yield from norm(f"{official}layers.{k}.norm", f"{ours}norm_{side}")


# Kinds of rows beside those of PyTorch's layers.
def parameter(official: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(official, f"params/{ours}"),)


def factors(official: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(official, f"params/{ours}", "1 c 1 1 -> c"),)


def matrix(official: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{official}.weight", f"params/{ours}/kernel", "o i -> i o"),)


# A row of a block: its kind, the official name, and ours.
Row = tuple[Callable[[str, str], tuple[Rule, ...]], str, str]
ATTENTION: tuple[Row, ...] = (
    (pointwise, "proj_1", "in"),
    (depthwise, "spatial_gating_unit.conv0", "near"),
    (depthwise, "spatial_gating_unit.conv_spatial", "far"),
    (pointwise, "spatial_gating_unit.conv1", "gate"),
    (pointwise, "proj_2", "out"),
)
BATCH_NORMS: tuple[Row, ...] = (
    (batch_norm, "norm1", "attention_norm"),
    (batch_norm, "norm2", "mlp_norm"),
)
NORMS: tuple[Row, ...] = ((norm, "norm1", "attention_norm"), (norm, "norm2", "mlp_norm"))
SCALES: tuple[Row, ...] = (
    (parameter, "layer_scale_1", "attention_scale"),
    (parameter, "layer_scale_2", "mlp_scale"),
)
LINEAR_MLP: tuple[Row, ...] = ((linear, "mlp.fc1", "mlp/in"), (linear, "mlp.fc2", "mlp/out"))
CONV_MLP: tuple[Row, ...] = ((pointwise, "mlp.fc1", "mlp/in"), (pointwise, "mlp.fc2", "mlp/out"))
VAN: tuple[Row, ...] = (
    *BATCH_NORMS,
    *((kind, f"attn.{theirs}", f"attention/{ours}") for kind, theirs, ours in ATTENTION),
    *CONV_MLP,
    (depthwise, "mlp.dwconv.dwconv", "mlp/mix"),
    *SCALES,
)
VIT: tuple[Row, ...] = (
    *NORMS,
    (functools.partial(self_attention, heads=8), "attn", "attention"),
    *LINEAR_MLP,
)
UNIFORMER_LOCAL: tuple[Row, ...] = (
    (depthwise, "pos_embed", "local/dpe"),
    (batch_norm, "norm1", "local/aggregator_norm"),
    (pointwise, "conv1", "local/value"),
    (depthwise, "attn", "local/affinity"),
    (pointwise, "conv2", "local/out"),
    (batch_norm, "norm2", "local/feed_forward_norm"),
    (pointwise, "mlp.fc1", "local/feed_forward_in"),
    (pointwise, "mlp.fc2", "local/feed_forward_out"),
)
BLOCKS: dict[str, tuple[Row, ...]] = {
    "gsta": VAN,
    "van": VAN,
    "tau": (
        *VAN,
        (matrix, "attn.spatial_gating_unit.fc.0", "attention/excite/reduce"),
        (matrix, "attn.spatial_gating_unit.fc.2", "attention/excite/expand"),
    ),
    "moga": (
        *BATCH_NORMS,
        (pointwise, "attn.proj_1", "attention/in"),
        (factors, "attn.sigma", "attention/sigma"),
        (depthwise, "attn.value.DW_conv0", "attention/low"),
        (depthwise, "attn.value.DW_conv1", "attention/middle"),
        (depthwise, "attn.value.DW_conv2", "attention/high"),
        (pointwise, "attn.value.PW_conv", "attention/value"),
        (pointwise, "attn.gate", "attention/gate"),
        (pointwise, "attn.proj_2", "attention/out"),
        *CONV_MLP,
        (depthwise, "mlp.dwconv", "mlp/mix"),
        (factors, "mlp.sigma", "mlp/sigma"),
        (pointwise, "mlp.decompose", "mlp/common"),
        (factors, "layer_scale_1", "attention_scale"),
        (factors, "layer_scale_2", "mlp_scale"),
    ),
    "hornet": (
        *NORMS,
        (pointwise, "gnconv.proj_in", "attention/in"),
        (depthwise, "gnconv.dwconv", "attention/conv"),
        *((pointwise, f"gnconv.pws.{k}", f"attention/widen_{k}") for k in range(3)),
        (pointwise, "gnconv.proj_out", "attention/out"),
        (linear, "pwconv1", "mlp/in"),
        (linear, "pwconv2", "mlp/out"),
        (parameter, "gamma1", "attention_scale"),
        (parameter, "gamma2", "mlp_scale"),
    ),
    "convnext": (
        (depthwise, "conv_dw", "conv"),
        (norm, "norm", "norm"),
        *CONV_MLP,
        (parameter, "gamma", "scale"),
    ),
    "convmixer": (
        (depthwise, "conv_dw", "conv"),
        (batch_norm, "norm_1", "conv_norm"),
        (pointwise, "conv_pw", "dense"),
        (batch_norm, "norm_2", "norm"),
    ),
    "poolformer": (*NORMS, *CONV_MLP, *SCALES),
    "mlp": (
        *NORMS,
        (linear, "mlp_tokens.fc1", "attention/in"),
        (linear, "mlp_tokens.fc2", "attention/out"),
        (linear, "mlp_channels.fc1", "mlp/in"),
        (linear, "mlp_channels.fc2", "mlp/out"),
    ),
    "vit": VIT,
    "swin": (
        *VIT, (parameter, "attn.relative_position_bias_table", "attention/position_bias")
    ),
    "uniformer": (
        (depthwise, "pos_embed", "global/dpe"),
        (norm, "norm1", "global/aggregator_norm"),
        (functools.partial(self_attention, heads=8), "attn", "global/attention"),
        (norm, "norm2", "global/feed_forward_norm"),
        (linear, "mlp.fc1", "global/feed_forward/in"),
        (linear, "mlp.fc2", "global/feed_forward/out"),
        (parameter, "gamma_1", "global/aggregator_scale"),
        (parameter, "gamma_2", "global/feed_forward_scale"),
    ),
}


def block(rows: Iterable[Row], official: str = "", ours: str = "") -> tuple[Rule, ...]:
    """The rules of rows such as `BLOCKS` has, below two prefixes."""
    made = (kind(f"{official}{theirs}", f"{ours}{name}") for kind, theirs, name in rows)
    return tuple(itertools.chain.from_iterable(made))
