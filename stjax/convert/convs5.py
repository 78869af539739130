"""The official networks of ConvS5 (NVlabs/ConvSSM) in ours.

A config is an official one (a YAML file's content): `model` names the network ("convS5_noVQ",
"convLSTM_noVQ", "transformer_noVQ" on pixels; "convS5", "S5", "transformer" on codes, which also
need the VQ-GAN's `n_codes` and `code_dim`).
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from stjax.convert.rules import Rule
from stjax.layers.causal_transformer import CausalTransformer
from stjax.layers.conv_lstm import ConvLSTM
from stjax.layers.convs5 import ConvS5
from stjax.layers.s5 import S5
from stjax.layers.sequence import sequence_layers
from stjax.models.prediction.convs5 import (
    MapSequence,
    PixelPredictor,
    TokenPredictor,
    VectorSequence,
)

# The token transformer's `sos_post` is declared and never read.
LEFT_OUT = ("sos_post",)
# Layers whose inputs the official `skip_connections` adds to those of later ones.
SKIPS = ((3, 8), (6, 11))

CODEBOOK_RULES = (
    Rule("Dense_0/kernel", "params/project/kernel"),
    Rule("Dense_1/kernel", "params/unproject/kernel"),
    Rule("codebook", "params/table"),
)

Config = Mapping[str, Any]


def module(config: Config) -> PixelPredictor | TokenPredictor:
    """Our network of an official config."""
    fields = {
        "core": _core(config),
        "encoder_depths": tuple(config["encoder"]["depths"]),
        "encoder_blocks": config["encoder"]["blocks"],
        "decoder_depths": tuple(config["decoder"]["depths"]),
        "decoder_blocks": config["decoder"]["blocks"],
        "actions": config["action_dim"],
        "action_features": config["action_embed_dim"],
        "action_dropout": (
            config.get("action_dropout_rate", 0.0) if config["dropout_actions"] else 0.0
        ),
    }
    if config["model"].endswith("_noVQ"):
        return PixelPredictor(**fields, channels=config["channels"])
    return TokenPredictor(**fields, codes=config["n_codes"], code_features=config["code_dim"])


def rules(config: Config) -> tuple[Rule, ...]:
    """Official names of a network to ours."""
    encoder, decoder = config["encoder"], config["decoder"]
    return (
        Rule("action_embeds/embedding", "params/action_embedding/table/embedding"),
        *_resnet("encoder", _encoder_channels(**encoder)),
        *_resnet("decoder", _decoder_channels(**decoder)),
        *_pair("decoder/LayerNorm_0", "params/decoder/norm", "scale"),
        *_pair("decoder/Dense_0", "params/decoder/head"),
        *_core_rules(config),
    )


def ssm(config: Config) -> ConvS5:
    """Our ConvS5 of the official `ConvS5SSM`'s arguments."""
    return ConvS5(**_ssm_fields(config))


def ssm_rules(config: Config, official: str = "", ours: str = "params/") -> tuple[Rule, ...]:
    """Official names of a `ConvS5SSM` to ours, both below the given prefixes."""
    size, into_size = {"kh": config["k_B"], "kw": config["k_B"]}, "two kh kw c p"
    read, our_read = f"{official}C_D_conv", f"{ours}read"
    readouts = {
        "resnet": (
            *_pair(f"{read}/GroupNorm_{{k}}", f"{our_read}/norm_{{k}}", "scale"),
            *_pair(f"{read}/Conv_{{k}}", f"{our_read}/conv_{{k}}"),
        ),
        "standard": (
            *_pair(f"{read}/GroupNorm_0", f"{our_read}/norm", "scale"),
            *_pair(f"{read}/Conv_0", f"{our_read}/conv"),
        ),
        "half_glu": (
            *_pair(f"{read}/norm", f"{our_read}/norm", "scale"),
            *_pair(f"{read}/Dense_0", f"{our_read}/gate"),
        ),
        "diag_resnet": (),
    }
    table = (
        *_dynamics_rules(official, ours),
        Rule(f"{official}B", f"{ours}into_state", f"p (c kh kw) two -> {into_size}", size),
        Rule(f"{official}C", f"{ours}out_of_state", "kh kw p c two -> two kh kw p c"),
        *readouts[config["C_D_config"]],
    )
    if config["squeeze_excite"] and config["C_D_config"] in ("resnet", "standard"):
        for part in ("reduce", "expand"):
            table += _pair(f"{read}/SEBlock_0/{part}", f"{our_read}/squeeze_excite/{part}")
    return table


def _core(config: Config):
    """Factory of what mixes over time."""
    kind, partial = config["model"].removesuffix("_noVQ"), functools.partial
    if kind == "transformer":
        kwargs = config["z_tfm_kwargs"]
        transformer = partial(
            CausalTransformer,
            features=kwargs["embed_dim"],
            depth=kwargs["num_layers"],
            heads=kwargs["num_heads"],
            mlp_features=kwargs["mlp_dim"],
            capacity=config["seq_len"],
            dropout=kwargs["dropout"],
            attention_dropout=kwargs["attention_dropout"],
        )
        features, out = kwargs["embed_dim"], config["embedding_dim"]
        return partial(VectorSequence, features, out, transformer, start=True)
    features = config["d_model"]
    if kind == "S5":
        mixer = partial(S5, features=features, **_dynamics(config["ssm"]))
        return partial(VectorSequence, features, config["embedding_dim"], _layers(config, mixer))
    if kind == "convLSTM":
        ssm_config = config["ssm"]
        mixer = partial(
            ConvLSTM, ssm_config["ssm_size"], ssm_config["kernel_size"], gate_order="ifog"
        )
    elif kind == "convS5":
        mixer = partial(ConvS5, **_ssm_fields(_ssm_config(config)))
    else:
        raise ValueError(f"model: {config['model']!r} is no network of the official code")
    return partial(MapSequence, features, _layers(config, mixer))


def _layers(config: Config, mixer):
    layer = config["seq_model"]
    norm = ("pre" if layer["prenorm"] else "post") if layer["use_norm"] else "none"
    return sequence_layers(
        mixer,
        layer["n_layers"],
        skips=SKIPS if layer["skip_connections"] else (),
        norm=norm,
        skip=layer["per_layer_skip"],
        dropout=layer["dropout"],
    )


def _dynamics(config: Config) -> dict[str, Any]:
    return {
        "state_size": config["ssm_size"],
        "blocks": config["blocks"],
        "shortest_step": config["dt_min"],
        "longest_step": config["dt_max"],
        "clip_eigenvalues": config["clip_eigs"],
    }


def _ssm_fields(config: Config) -> dict[str, Any]:
    # The official code builds a "diag_resnet", but never applies it.
    readout = "none" if config["C_D_config"] == "diag_resnet" else config["C_D_config"]
    return {
        **_dynamics(config),
        "features": config["U"],
        "input_kernel": config["k_B"],
        "output_kernel": config["k_C"],
        "readout_kernel": config["k_D"],
        "readout": readout,
        "activation": getattr(nn, config["activation"]),
        "groups": config["num_groups"],
        "squeeze_excite": config["squeeze_excite"],
    }


def _ssm_config(config: Config) -> dict[str, Any]:
    """The arguments of `ConvS5SSM` in a network's config."""
    layer, own = config["seq_model"], config["ssm"]
    return {
        **own,
        "U": config["d_model"],
        **{f"k_{name}": own[f"{name}_kernel_size"] for name in "BCD"},
        "activation": layer["layer_activation"],
        "num_groups": layer["num_groups"],
        "squeeze_excite": layer["squeeze_excite"],
    }


def _core_rules(config: Config) -> tuple[Rule, ...]:
    kind, ours = config["model"].removesuffix("_noVQ"), "params/mixing"
    if kind in ("convS5", "convLSTM"):
        ends = _pair("action_conv/Conv_0", f"{ours}/project")
    else:
        ends = (
            Rule("z_proj/kernel", f"{ours}/project/kernel"),
            Rule("z_unproj/kernel", f"{ours}/unproject/kernel"),
        )
    if kind == "transformer":
        sequence = _transformer_rules("z_tfm", f"{ours}/sequence")
        return (*ends, Rule("sos", f"{ours}/start", "1 1 c -> c"), *sequence)
    official, ours = "sequence_model/layers_{i}", f"{ours}/sequence/layers"
    if config["seq_model"]["use_norm"]:
        ends += _pair(f"{official}/norm", f"{ours}/norm", "scale")
    official, ours = f"{official}/seq/", f"{ours}/mixer/"
    if kind == "convS5":
        return ends + ssm_rules(_ssm_config(config), official, ours)
    if kind == "S5":
        return ends + _s5_rules(official, ours)
    kernels = (f"{ours}input_kernel", f"{ours}hidden_kernel")
    sections = (config["d_model"], config["ssm"]["ssm_size"])
    return (*ends, Rule(f"{official}A", kernels, axis=2, sections=sections))


def _dynamics_rules(official: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{official}Lambda_re", f"{ours}eigenvalues_re"),
        Rule(f"{official}Lambda_im", f"{ours}eigenvalues_im"),
        Rule(f"{official}log_step", f"{ours}log_step", "p 1 -> p"),
    )


def _s5_rules(official: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_dynamics_rules(official, ours),
        Rule(f"{official}B", f"{ours}into_state", "p c two -> two c p"),
        Rule(f"{official}C", f"{ours}out_of_state", "c p two -> two p c"),
        Rule(f"{official}D", f"{ours}feedthrough"),
        *_pair(f"{official}out2", f"{ours}gate"),
    )


def _transformer_rules(official: str, ours: str) -> tuple[Rule, ...]:
    layer, our_layer = f"{official}/TransformerLayer_{{i}}", f"{ours}/stack/layers"
    attention, our_attention = f"{layer}/MultiHeadAttention_0", f"{our_layer}/attention"
    table = (
        *_pair(f"{official}/Dense_0", f"{ours}/in"),
        *_pair(f"{official}/Dense_1", f"{ours}/out"),
        *_pair(f"{official}/LayerNorm_0", f"{ours}/norm", "scale"),
        *_pair(f"{layer}/LayerNorm_0", f"{our_layer}/attention_norm", "scale"),
        *_pair(f"{layer}/LayerNorm_1", f"{our_layer}/mlp_norm", "scale"),
        *_pair(f"{layer}/MlpBlock_0/wi", f"{our_layer}/mlp_in"),
        Rule(f"{layer}/MlpBlock_0/wo/kernel", f"{our_layer}/mlp_out/kernel"),
        Rule(f"{layer}/MlpBlock_0/wo_bias/bias", f"{our_layer}/mlp_out/bias"),
        Rule(f"{attention}/out/kernel", f"{our_attention}/out/kernel"),
        Rule(f"{attention}/out_bias/bias", f"{our_attention}/out/bias"),
    )
    for name in ("query", "key", "value"):
        table += _pair(f"{attention}/{name}", f"{our_attention}/{name}")
    return table


def _encoder_channels(depths, blocks) -> list[int]:
    """Channels after the first convolution and after each block."""
    return [depths[0], depths[0], *(depth for depth in depths[1:] for _ in range(blocks))]


def _decoder_channels(depths, blocks) -> list[int]:
    return [depths[0], *(depth for depth in reversed(depths) for _ in range(blocks))]


def _resnet(name: str, channels: list[int]) -> tuple[Rule, ...]:
    """The first convolution and the blocks of encoder or decoder."""
    official, ours = f"{name}/ResNetBlock_{{k}}", f"params/{name}/block_{{k}}"
    table = _pair(f"{name}/Conv_0", f"params/{name}/stem")
    if len(channels) > 1:
        table += (
            *_pair(f"{official}/GroupNorm_{{j}}", f"{ours}/norm_{{j}}", "scale"),
            Rule(f"{official}/Conv_{{j}}/kernel", f"{ours}/conv_{{j}}/kernel"),
            Rule(f"{official}/Conv_0/bias", f"{ours}/conv_0/bias"),
            Rule(f"{official}/AddBias_0/bias", f"{ours}/conv_1/bias"),
        )
    if any(before != after for before, after in itertools.pairwise(channels)):
        table += (Rule(f"{official}/skip/kernel", f"{ours}/skip/kernel"),)
    return table


def _pair(official: str, ours: str, first: str = "kernel") -> tuple[Rule, Rule]:
    """The rules of a kernel, or a scale, and its bias."""
    return tuple(Rule(f"{official}/{leaf}", f"{ours}/{leaf}") for leaf in (first, "bias"))
