"""VDT's checkpoints (github.com/RERV/VDT) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm, self_attention
from stjax.models.generation.vdt import VDT

# Fixed tables.
LEFT_OUT = ("pos_embed", "time_embed")


def module(config: Mapping[str, Any]) -> VDT:
    """Our VDT from the official arguments."""
    return VDT(
        depth=config["depth"],
        dim=config["hidden_size"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        learn_sigma=config["learn_sigma"],
        temporal=config["mode"] == "video",
        classes=config["num_classes"],
        label_dropout=config["class_dropout_prob"],
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of VDT."""
    block, patch = "blocks.{i}", {"p": config["patch_size"], "q": config["patch_size"]}
    heads = config["num_heads"]
    table = [
        Rule("x_embedder.proj.weight", "params/patches/kernel", "o c p q -> (p q c) o", patch | {
            "c": config["in_channels"]
        }),
        Rule("x_embedder.proj.bias", "params/patches/bias"),
        *linear("t_embedder.mlp.0", "time/in"),
        *linear("t_embedder.mlp.2", "time/out"),
        Rule("y_embedder.embedding_table.weight", "params/label/table/embedding"),
        *self_attention(f"{block}.attn", "blocks/spatial/attention/map", heads),
        *linear(f"{block}.mlp.fc1", "blocks/spatial/feed_forward/in"),
        *linear(f"{block}.mlp.fc2", "blocks/spatial/feed_forward/out"),
        *linear(f"{block}.adaLN_modulation.1", "blocks/spatial/adaln/linear"),
        *linear("final_layer.linear", "final/linear"),
        *linear("final_layer.adaLN_modulation.1", "final/adaln/linear"),
    ]
    if config["mode"] == "video":
        table += [
            *norm(f"{block}.temporal_norm1", "blocks/temporal_norm"),
            *self_attention(f"{block}.temporal_attn", "blocks/temporal_attention/map", heads),
            *linear(f"{block}.temporal_fc", "blocks/temporal_fc"),
        ]
    return tuple(table)
