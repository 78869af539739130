"""Checkpoints of github.com/junmokane/spatially-aware-transformer, and its configurations."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d, linear, norm
from stjax.models.language.spatially_aware_transformer import (
    VARIANTS,
    AdaptiveMemoryAllocator,
    FrameEncoder,
    MemoryTransformer,
    SpatiallyAwareTransformer,
    ViewDecoder,
    ViewImagination,
)

# Frequencies of the codes; of the ballet's networks, actions that nothing reads.
LEFT_OUT = ("time_emb.inv_freqs", "core_emb.inv_freqs")
UNREAD = (*LEFT_OUT, "action_emb.weight")
ENCODERS = {
    "ballet": {"features": (16, 32), "windows": (9, 3), "strides": (9, 1)},
    "ffhq": {"features": (64, 64, 32), "windows": (2, 2, 2), "strides": (2, 2, 2)},
}


def memory(config: Mapping[str, Any], variant: str) -> MemoryTransformer:
    """The stack of layers from the official sections `hcam` or `tr`."""
    section = config["tr" if VARIANTS[variant].plain else "hcam"]
    return MemoryTransformer(
        section["num_layers"], variant, section["heads"], section["dim_head"],
        section["mlp"]["hidden_dim"], section.get("mem_chunk_size", 1), section.get("topk_mems", 0),
    )


def short_stay(config: Mapping[str, Any], steps: int) -> SpatiallyAwareTransformer:
    """Args: steps: of the walk, which the official data files say."""
    sizes = config["data"]
    return SpatiallyAwareTransformer(
        FrameEncoder(config["hcam"]["dim"], **ENCODERS["ballet"]),
        memory(config, config["model_type"]), sizes["dance_type"],
        config["random_walk"]["num_rooms"], steps, sizes["dance_time"] + sizes["delay_time"],
        "modulo",
    )


def multi_task(
    config: Mapping[str, Any],
) -> tuple[SpatiallyAwareTransformer, AdaptiveMemoryAllocator]:
    sizes = config["data"]
    period = sizes["dance_time"] + sizes["delay_time"]
    reader = SpatiallyAwareTransformer(
        FrameEncoder(config["hcam"]["dim"], **ENCODERS["ballet"]), memory(config, "cams"),
        sizes["dance_type"], sizes["n_space"], sizes["n_dance"] // 2 * period, period, masked=False,
    )
    return reader, AdaptiveMemoryAllocator()


def imagination(config: Mapping[str, Any], clusters: int) -> ViewImagination:
    return ViewImagination(
        FrameEncoder(config["hcam"]["dim"], **ENCODERS["ffhq"]),
        memory(config, config["model_type"]), ViewDecoder(), config["data"]["len_mv"], clusters,
        config["data"]["n_action"],
    )


def layers(config: Mapping[str, Any], official: str, ours: str, reads: bool = True):
    """HCAMLayers, or TrLayers: `official` and `ours` are what precedes their own names."""
    section = config["hcam" if reads else "tr"]
    official, ours = f"{official}{{i}}", f"{ours}layers"
    rules = [
        *norm(f"{official}.lablock.norm", f"{ours}/attention_norm"),
        *_attention(section, f"{official}.lablock.attn", f"{ours}/attention"),
        *norm(f"{official}.norm", f"{ours}/mlp_norm"),
        *linear(f"{official}.mlp.mlp.0", f"{ours}/mlp/in"),
        *linear(f"{official}.mlp.mlp.3", f"{ours}/mlp/out"),
    ]
    if reads:
        block = f"{official}.hcamblock"
        rules += [
            *norm(f"{block}.norm", f"{ours}/hcam_norm"),
            *linear(f"{block}.attn.to_summary_queries", f"{ours}/hcam/summary_query"),
            *linear(f"{block}.attn.to_summary_keys", f"{ours}/hcam/summary_key"),
            *_attention(section, f"{block}.attn.attn", f"{ours}/hcam"),
        ]
    return tuple(rules)


def ballet_rules(config: Mapping[str, Any], ours: str = "") -> tuple[Rule, ...]:
    """The table of both networks of Room Ballet. Args: ours: what precedes our names, "reader/"."""
    return (
        *_encoder("ballet", f"{ours}encoder"),
        *layers(config, "memory_model.", f"{ours}memory/"),
        *linear("mlp", f"{ours}head"),
    )


def allocator_rules(ours: str) -> tuple[Rule, ...]:
    return (*linear("q.0", f"{ours}in"), *linear("q.2", f"{ours}out"))


def imagination_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    reads = not VARIANTS[config["model_type"]].plain
    sides = {"h": 2, "w": 2}
    table = [
        *_encoder("ffhq", "encoder"),
        *layers(config, "memory_model.", "memory/", reads),
        Rule("action_emb.weight", "params/actions/embedding"),
        Rule("decoder._net.0.weight", "params/decoder/in/kernel", "(c h w) i -> i (h w c)", sides),
        Rule("decoder._net.0.bias", "params/decoder/in/bias", "(c h w) -> (h w c)", sides),
    ]
    for k, official in enumerate(("decoder._net.3", "decoder._net.5", "decoder._net.7")):
        table += [
            Rule(f"{official}.weight", f"params/decoder/up_{k}/pixels/kernel",
                 "i o r s -> i (r s o)", {"r": 2, "s": 2}),
            Rule(f"{official}.bias", f"params/decoder/up_{k}/bias"),
        ]
    return tuple(table)


def _encoder(kind, ours):
    depth = len(ENCODERS[kind]["features"])
    side = {"ballet": 3, "ffhq": 2}[kind]
    names = [(f"encoder.conv{k + 1}", f"{ours}/conv_{k}") for k in range(depth)]
    return (
        *(rule for pair in names for rule in conv2d(*pair)),
        Rule("encoder.fc1.weight", f"params/{ours}/out/kernel", "o (c h w) -> (h w c) o",
             {"h": side, "w": side}),
        Rule("encoder.fc1.bias", f"params/{ours}/out/bias"),
    )


def _attention(section, official, ours):
    heads = {"h": section["heads"], "s": 2}
    return (
        Rule(f"{official}.to_q.weight", f"params/{ours}/query/kernel", "(h e) i -> i h e", heads),
        Rule(f"{official}.to_kv.weight", f"params/{ours}/key_value/kernel",
             "(s h e) i -> i s h e", heads),
        Rule(f"{official}.to_out.weight", f"params/{ours}/out/kernel", "o (h e) -> h e o", heads),
        Rule(f"{official}.to_out.bias", f"params/{ours}/out/bias"),
    )
