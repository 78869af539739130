"""Lumos-1's checkpoints (github.com/alibaba-damo-academy/Lumos, lumos-1) and arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.models.generation.lumos1 import Lumos1, Vocabulary

# Chameleon's image tokenizer, which is made and never used.
LEFT_OUT = ("model.vqmodel.{i}",)


def module(config: Mapping[str, Any], text: int = 65_536) -> Lumos1:
    """Our network of the official config; `text` is where its visual codes begin."""
    return Lumos1(
        vocabulary=Vocabulary(text, config["vocab_size"] - text),
        dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        hidden=config["intermediate_size"],
        base=config["rope_theta"],
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of `ChameleonMMRoPEForConditionalGeneration`."""
    return (
        Rule("model.embed_tokens.weight", "params/embedding/embedding"),
        *block_rules(config, "params/stack/layers"),
        Rule("model.norm.weight", "params/norm/scale"),
        Rule("lm_head.weight", "params/head", "o i -> i o"),
    )


def block_rules(config: Mapping[str, Any], ours: str) -> tuple[Rule, ...]:
    """The table of the `ChameleonDecoderLayer`s, stacked."""
    layer = "model.layers.{i}"
    heads = {"h": config["num_attention_heads"]}
    kv_heads = {"h": config["num_key_value_heads"]}
    table = [
        Rule(f"{layer}.input_layernorm.weight", f"{ours}/attention_norm/scale"),
        Rule(f"{layer}.post_attention_layernorm.weight", f"{ours}/feed_forward_norm/scale"),
        Rule(
            f"{layer}.self_attn.o_proj.weight", f"{ours}/attention/out/kernel",
            "o (h d) -> h d o", heads,
        ),
    ]
    for official, name, number in (
        ("q", "query", heads), ("k", "key", kv_heads), ("v", "value", kv_heads)
    ):
        path = f"{ours}/attention/{name}/kernel"
        table.append(
            Rule(f"{layer}.self_attn.{official}_proj.weight", path, "(h d) i -> i h d", number)
        )
    for name in ("q", "k"):
        norm = f"{ours}/qk_norm/{name}"
        table += [
            Rule(f"{layer}.self_attn.{name}_norm.weight", f"{norm}/scale", "1 d -> d"),
            Rule(f"{layer}.self_attn.{name}_norm.bias", f"{norm}/bias", "1 d -> d"),
        ]
    for official, name in (("gate", "gate"), ("up", "in"), ("down", "out")):
        path = f"{ours}/feed_forward/{name}/kernel"
        table.append(Rule(f"{layer}.mlp.{official}_proj.weight", path, "o i -> i o"))
    return tuple(table)
