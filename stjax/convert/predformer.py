"""PredFormer's checkpoints (github.com/yyyujintang/PredFormer) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm
from stjax.models.prediction.predformer import PredFormer

# An official file a variant: our order, and the transformers of a layer by their official names.
VARIANTS = {
    "FullAttention": ("full", ("space_temporal_transformer",)),
    "FacST": ("S-T", ("space_transformer", "temporal_transformer")),
    "FacTS": ("T-S", ("temporal_transformer", "space_transformer")),
    "Binary_TS": ("TS", ("ts_temporal_transformer", "ts_space_transformer")),
    "Binary_ST": ("ST", ("st_space_transformer", "st_temporal_transformer")),
    "Triplet_TST": (
        "TST",
        ("temporal_transformer_first", "space_transformer", "temporal_transformer_second"),
    ),
    "Triplet_STS": (
        "STS",
        ("space_transformer_first", "temporal_transformer", "space_transformer_second"),
    ),
    "Quadruplet_TSST": (
        "TSST",
        (
            "ts_temporal_transformer",
            "ts_space_transformer",
            "st_space_transformer",
            "st_temporal_transformer",
        ),
    ),
    "Quadruplet_STTS": (
        "STTS",
        (
            "st_space_transformer",
            "st_temporal_transformer",
            "ts_temporal_transformer",
            "ts_space_transformer",
        ),
    ),
}


def module(config: Mapping[str, Any]) -> PredFormer:
    """Our PredFormer from the official arguments and the variant's name (its official file's)."""
    order, _ = VARIANTS[config["variant"]]
    return PredFormer(
        order=order,
        layers=config["Ndepth"],
        patch=config["patch_size"],
        dim=config["dim"],
        heads=config["heads"],
        head_dim=config["dim_head"],
        mlp_ratio=config["scale_dim"],
        depth=config["depth"],
        dropout=config["dropout"],
        attn_dropout=config["attn_dropout"],
        drop_path=config["drop_path"],
        scramble=order == "S-T",
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of PredFormer_Model."""
    _, names = VARIANTS[config["variant"]]
    layer = "blocks.{i}." if config["variant"].partition("_")[2] else ""
    table = [
        *linear("to_patch_embedding.1", "embedding"),
        *norm("mlp_head.0", "head_norm"),
        *linear("mlp_head.1", "head"),
    ]
    for i, name in enumerate(names):
        table += _transformer(config, f"{layer}{name}", f"encoder/transformer_{i}")
    return tuple(table)


def _transformer(config, official, ours):
    """A GatedTransformer: `layers.{j}.0` is the attention, `layers.{j}.1` the feed-forward map."""
    attention, feed_forward = f"{official}.layers.{{j}}.0", f"{official}.layers.{{j}}.1"
    block = f"{ours}/blocks"
    heads = {"s": 3, "h": config["heads"]}
    qkv = f"params/{block}/attention/qkv/kernel"
    yield from norm(f"{official}.norm", f"{ours}/norm")
    yield from norm(f"{attention}.norm", f"{block}/attention_norm")
    yield Rule(f"{attention}.fn.to_qkv.weight", qkv, "(s h d) i -> i s h d", heads)
    if (config["heads"], config["dim_head"]) != (1, config["dim"]):
        out = f"params/{block}/attention/out"
        yield Rule(f"{attention}.fn.to_out.0.weight", f"{out}/kernel", "o (h d) -> h d o", heads)
        yield Rule(f"{attention}.fn.to_out.0.bias", f"{out}/bias")
    yield from norm(f"{feed_forward}.norm", f"{block}/feed_forward_norm")
    for name, part in (("fc1_g", "gate"), ("fc1_x", "in"), ("fc2", "out")):
        yield from linear(f"{feed_forward}.fn.{name}", f"{block}/feed_forward/{part}")
