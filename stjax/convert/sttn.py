"""STTN's two published codes: the authors' (TensorFlow 1, github.com/xumingxingsjtu/STTN) and
LibCity's (PyTorch, github.com/LibCity/Bigscity-LibCity).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm, pointwise
from stjax.models.series.sttn import STTN, VARIANTS

# From TensorFlow's convolution of one pixel to a linear map.
PIXEL = "1 1 i o -> i o"


def module(config: Mapping[str, Any], adjacency: np.ndarray) -> STTN:
    """Our STTN from LibCity's arguments; its adjacency as it came, not standardised."""
    width = config["embed_dim"]
    return STTN(
        adjacency,
        **{**VARIANTS["libcity"], "hidden": (config["forward_expansion"] * width,)},
        horizon=config["output_window"],
        features=width,
        blocks=config["num_layers"],
        heads=config["num_heads"],
        slots=config["TG_in_one_day"],
        outputs=config["output_dim"],
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of LibCity's network."""
    layer, block = "transformer.encoder.layers.{i}", "blocks"
    spatial, temporal = f"{layer}.STransformer", f"{layer}.TTransformer"
    positions = f"{block}/spatial_positions"
    table = [
        *pointwise("conv1", "embedding"),
        *pointwise("conv2", "head/steps"),
        *pointwise("conv3", "head/out"),
        Rule(f"{spatial}.D_S", f"params/{positions}/sensors"),
        *linear(f"{spatial}.embed_linear", f"{positions}/map"),
        Rule(f"{temporal}.temporal_embedding.weight", f"params/{block}/temporal_positions/steps"),
        *linear(f"{spatial}.fs", f"{block}/gate_dynamic"),
        *linear(f"{spatial}.fg", f"{block}/gate_fixed"),
        *norm(f"{layer}.norm1", f"{block}/spatial_norm"),
        *norm(f"{layer}.norm2", f"{block}/temporal_norm"),
    ]
    for official, ours in (("gc1", "in"), ("gc2", "out")):
        path = f"params/{block}/graph_convolution/{ours}"
        table.append(Rule(f"{spatial}.gcn.{official}.weight", f"{path}/kernel", "i o -> 1 i o"))
        table.append(Rule(f"{spatial}.gcn.{official}.bias", f"{path}/bias"))
    for official, half in ((spatial, "spatial"), (temporal, "temporal")):
        ours = f"{block}/{half}_transformer"
        for theirs, name in (("queries", "query"), ("keys", "key"), ("values", "value")):
            kernel = f"params/{ours}/attention/{name}/kernel"
            table.append(Rule(f"{official}.attention.{theirs}.weight", kernel, "o i -> i o"))
        out = f"params/{ours}/attention/out"
        heads = {"h": config["num_heads"]}
        table += [
            Rule(f"{official}.attention.fc_out.weight", f"{out}/kernel", "o (h d) -> h d o", heads),
            Rule(f"{official}.attention.fc_out.bias", f"{out}/bias"),
            *norm(f"{official}.norm1", f"{ours}/attention_norm"),
            *norm(f"{official}.norm2", f"{ours}/feed_forward_norm"),
            *linear(f"{official}.feed_forward.0", f"{ours}/feed_forward_0"),
            *linear(f"{official}.feed_forward.2", f"{ours}/feed_forward_1"),
        ]
    return tuple(table)


def official_module(config: Mapping[str, Any], kernel: np.ndarray) -> STTN:
    """Our STTN from the authors' arguments and their `graph_kernel`, (n, Ks n)."""
    nodes, supports = config["n_route"], config["Ks"]
    # Their vectors of sensors stand left of the matrices, ours right.
    supports = kernel.reshape(nodes, supports, nodes).transpose(1, 2, 0)
    return STTN(
        np.zeros((nodes, nodes)),
        **VARIANTS["official"],
        horizon=1,
        features=config["blocks"][0][0],
        blocks=len(config["blocks"]),
        supports=supports,
    )


def official_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of the authors' network, whose first block is not like the rest."""
    table = [
        Rule("aggregation/w1", "params/embedding/kernel", PIXEL),
        Rule("aggregation/b1", "params/embedding/bias"),
        Rule("temporal_transformer_decoder/wt", "params/head/steps/kernel", "t 1 i o -> t i o"),
        Rule("temporal_transformer_decoder/bt", "params/head/steps/bias"),
        *_joint_norm("layer_norm_output_layer", "head/norm", {}),
    ]
    for i, name in (("1", "hidden"), ("2", "out")):
        table.append(Rule(f"w{i}_output_layer", f"params/head/{name}/kernel", PIXEL))
        table.append(Rule(f"b{i}_output_layer", f"params/head/{name}_bias"))
    sizes = {"k": config["Ks"]}
    table += _official_block("0", "first", sizes, {})
    if len(config["blocks"]) > 1:
        table += _official_block("{i}", "blocks", sizes, {"i": 1})
    return tuple(table)


def _official_block(number, block, sizes, starts):
    """A block's table; `starts` is empty for the one that stands alone."""
    rule = lambda official, ours, pattern=None: Rule(
        official, f"params/{block}/{ours}", pattern, sizes, starts=starts
    )
    spatial, temporal = (f"stn_block_{number}_{half}" for half in ("spatial", "temporal"))
    table = "position_embeddings"
    yield rule(f"{spatial}/spatial_embeddings/spatial_{table}", "spatial_positions/sensors")
    yield rule(f"{spatial}/temporal_embeddings/temporal_{table}", "spatial_positions/steps")
    yield rule(f"{temporal}/temporal_embedding/temporal_{table}", "temporal_positions/steps")
    yield rule(f"{spatial}/ws", "graph_convolution/kernel", "(c k) o -> k c o")
    yield rule(f"{spatial}/bs", "graph_convolution/bias")
    yield from _joint_norm(f"layer_norm_{number}", f"{block}/norm", starts)
    halves = (
        (spatial, f"{spatial}/layer_0", "spatial"),
        (temporal, f"{temporal}/encoder/layer_0", "temporal"),
    )
    for half, layer, name in halves:
        positions, ours = f"{name}_positions", f"{name}_transformer"
        yield rule(f"{half}/ws_input", f"{positions}/skip/kernel", PIXEL)
        yield rule(f"{layer}/transformer/ws_input", f"{positions}/map/kernel", PIXEL)
        for name in ("query", "key", "value"):
            official = f"{layer}/attention/self/{name}"
            yield rule(f"{official}/kernel", f"{ours}/attention/{name}/kernel", "i o -> i 1 o")
            yield rule(f"{official}/bias", f"{ours}/attention/{name}/bias", "o -> 1 o")
        official = f"{layer}/attention/output"
        yield rule(f"{official}/dense/kernel", f"{ours}/attention/out/kernel", "i o -> 1 i o")
        yield rule(f"{official}/dense/bias", f"{ours}/attention/out/bias")
        for leaf in ("kernel", "bias"):
            for i, official in enumerate(("intermediate", "output")):
                yield rule(f"{layer}/{official}/dense/{leaf}", f"{ours}/feed_forward_{i}/{leaf}")
        for official, name in (("attention/output", "attention"), ("output", "feed_forward")):
            for theirs, leaf in (("gamma", "scale"), ("beta", "bias")):
                yield rule(f"{layer}/{official}/LayerNorm/{theirs}", f"{ours}/{name}_norm/{leaf}")


def _joint_norm(official, ours, starts):
    for theirs, leaf in (("gamma", "scale"), ("beta", "bias")):
        path = f"params/{ours}/{leaf}"
        yield Rule(f"{official}/{theirs}", path, "1 1 n c -> n c", starts=starts)
