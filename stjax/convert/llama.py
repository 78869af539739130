"""Checkpoints of decoders of the LLaMA kind at Hugging Face, and their configurations.

For LlamaForCausalLM, Qwen2ForCausalLM and others of their names and form; `stjax.convert.
safetensors.load` reads the files.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.models.backbones.llama import Decoder, Llama

# Tables of rotary frequencies, which older checkpoints hold.
LEFT_OUT = ("model.layers.{i}.self_attn.rotary_emb.inv_freq",)

_QUERIES = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))


def module(config: Mapping[str, Any], **options: Any) -> Llama:
    """Our network from the fields of a LlamaConfig or Qwen2Config; `options` of the decoder."""
    return Llama(decoder(config, **options), config["vocab_size"], config["hidden_size"])


def decoder(config: Mapping[str, Any], **options: Any) -> Decoder:
    """Our decoder, without table and head. The rotary base is "theta" or "rope_theta"."""
    base = config.get("theta", config.get("rope_theta", 10_000.0))
    return Decoder(
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads", config["num_attention_heads"]),
        hidden=config["intermediate_size"],
        capacity=config["max_position_embeddings"],
        base=base,
        epsilon=config["rms_norm_eps"],
        qkv_bias=_biased(config),
        **options,
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of the whole language model."""
    return (
        Rule("model.embed_tokens.weight", "params/embedding/embedding"),
        *decoder_rules(config, "model.", "decoder/"),
        Rule("lm_head.weight", "params/head/kernel", "o i -> i o"),
    )


def decoder_rules(config: Mapping[str, Any], official: str, ours: str) -> Iterator[Rule]:
    """The table of the blocks and the last norm."""
    block, path = f"{official}layers.{{i}}.", f"params/{ours}blocks/layers/"
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads", heads)
    for (theirs, own), count in zip(_QUERIES, (heads, groups, groups)):
        sizes, at = {"h": count}, f"{path}attention/{own}"
        weight = f"{block}self_attn.{theirs}"
        yield Rule(f"{weight}.weight", f"{at}/kernel", "(h d) i -> i h d", sizes)
        if _biased(config):
            yield Rule(f"{weight}.bias", f"{at}/bias", "(h d) -> h d", sizes)
    yield Rule(
        f"{block}self_attn.o_proj.weight", f"{path}attention/out/kernel", "o (h d) -> h d o",
        {"h": heads},
    )
    for theirs, own in (("gate_proj", "gate"), ("up_proj", "in"), ("down_proj", "out")):
        yield Rule(
            f"{block}mlp.{theirs}.weight", f"{path}feed_forward/{own}/kernel", "o i -> i o"
        )
    yield Rule(f"{block}input_layernorm.weight", f"{path}attention_norm/scale")
    yield Rule(f"{block}post_attention_layernorm.weight", f"{path}feed_forward_norm/scale")
    yield Rule(f"{official}norm.weight", f"params/{ours}norm/scale")


def _biased(config):
    return config.get("class") == "Qwen2ForCausalLM" or config.get("model_type") == "qwen2"
