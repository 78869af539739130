"""CLIP's checkpoints at Hugging Face (transformers' CLIPModel) and configurations."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm
from stjax.models.backbones.clip import Clip, ClipText, ClipVision

# Tables of positions' numbers, which older checkpoints hold.
LEFT_OUT = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")


def module(config: Mapping[str, Any]) -> Clip:
    """Our network from the fields of CLIPConfig, with its sections "vision" and "text"."""
    text = config["text"]
    return Clip(
        vision(config["vision"]),
        ClipText(**_sizes(text), vocabulary=text["vocab_size"],
                 context=text["max_position_embeddings"]),
        features=config["projection_dim"],
        end_token=text["eos_token_id"],
    )


def vision(config: Mapping[str, Any]) -> ClipVision:
    """Our transformer of images from the fields of CLIPVisionConfig."""
    return ClipVision(**_sizes(config), size=config["image_size"], patch=config["patch_size"])


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of CLIPModel."""
    text = config["text"]
    return (
        *vision_rules(config["vision"], "vision_model.", "vision/"),
        Rule("text_model.embeddings.token_embedding.weight", "params/text/embedding/embedding"),
        Rule("text_model.embeddings.position_embedding.weight", "params/text/positions"),
        *_encoder_rules(text, "text_model.", "text/"),
        *norm("text_model.final_layer_norm", "text/last_norm"),
        Rule("visual_projection.weight", "params/image_projection/kernel", "o i -> i o"),
        Rule("text_projection.weight", "params/text_projection/kernel", "o i -> i o"),
        Rule("logit_scale", "params/log_scale"),
    )


def vision_rules(config: Mapping[str, Any], official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of CLIPVisionModel; `official` and `ours` are what comes before its names."""
    sizes = {"p": config["patch_size"], "q": config["patch_size"]}
    yield Rule(f"{official}embeddings.class_embedding", f"params/{ours}class_token")
    yield Rule(
        f"{official}embeddings.patch_embedding.weight", f"params/{ours}patches/kernel",
        "o c p q -> (p q c) o", sizes,
    )
    yield Rule(f"{official}embeddings.position_embedding.weight", f"params/{ours}positions")
    yield from norm(f"{official}pre_layrnorm", f"{ours}first_norm")
    yield from norm(f"{official}post_layernorm", f"{ours}last_norm")
    yield from _encoder_rules(config, official, ours)


def block_rules(config: Mapping[str, Any], official: str, ours: str) -> Iterator[Rule]:
    """The table of CLIPEncoderLayer."""
    sizes = {"h": config["num_attention_heads"]}
    attention = f"{official}self_attn."
    for theirs, own in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        path = f"params/{ours}attention/{own}"
        yield Rule(f"{attention}{theirs}.weight", f"{path}/kernel", "(h d) i -> i h d", sizes)
        yield Rule(f"{attention}{theirs}.bias", f"{path}/bias", "(h d) -> h d", sizes)
    path = f"params/{ours}attention/out"
    yield Rule(f"{attention}out_proj.weight", f"{path}/kernel", "o (h d) -> h d o", sizes)
    yield Rule(f"{attention}out_proj.bias", f"{path}/bias")
    yield from norm(f"{official}layer_norm1", f"{ours}attention_norm")
    yield from norm(f"{official}layer_norm2", f"{ours}feed_forward_norm")
    yield from linear(f"{official}mlp.fc1", f"{ours}feed_forward/in")
    yield from linear(f"{official}mlp.fc2", f"{ours}feed_forward/out")


def _encoder_rules(config, official, ours):
    return block_rules(config, f"{official}encoder.layers.{{i}}.", f"{ours}blocks/")


def _sizes(config):
    if config["hidden_act"] != "quick_gelu":
        raise ValueError(f"hidden_act: {config['hidden_act']!r}, where CLIP's is 'quick_gelu'")
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "hidden": config["intermediate_size"],
        "epsilon": config.get("layer_norm_eps", 1e-5),
    }
