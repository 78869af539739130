"""STORM's checkpoints (github.com/NVlabs/GaussianSTORM) and constructor arguments."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d, linear, norm, pointwise
from stjax.models.world.storm import STORM

# A fixed bound, and the grids of pixels.
LEFT_OUT = ("max_scale", "plucker_embedder.x", "plucker_embedder.y")
_UP = {"r": 2, "s": 2}


def module(config: Mapping[str, Any]) -> STORM:
    """Our STORM, as published, from the official arguments."""
    latent = config["decoder_type"] == "conv"
    return STORM(
        size=tuple(config["img_size"]),
        patch=config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        cameras=config["num_cams"],
        motion_tokens=config["num_motion_tokens"],
        temperature=config["tau"],
        features=(512, 256, 128, 128) if config["patch_size"] == 16 else (512, 256, 128),
        motion_dim=config["projected_motion_dim"],
        latent=config["gs_dim"] if latent else 0,
        far=config["far"],
        sky=config["use_sky_token"],
        affine="gain" if config["use_affine_token"] else "none",
        centre=1.0,
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of STORM."""
    model = module(config)
    rows, columns = (side // model.patch for side in model.size)
    grid = {"h": rows, "w": columns}
    heads = {"s": 3, "k": model.heads}
    table = [
        Rule("pos_embed", "params/positions", "1 (h w) d -> h w d", grid),
        Rule("patch_embed.proj.weight", "params/embedding/kernel", "o i p q -> (p q i) o",
             {"p": model.patch, "q": model.patch}),
        Rule("patch_embed.proj.bias", "params/embedding/bias"),
        *linear("time_embedder.mlp.0", "time/in"),
        *linear("time_embedder.mlp.2", "time/out"),
        *_attention("transformer.blocks.{i}.attn", "blocks/attention", heads),
        *norm("transformer.blocks.{i}.norm1", "blocks/attention_norm"),
        *norm("transformer.blocks.{i}.norm2", "blocks/feed_forward_norm"),
        *linear("transformer.blocks.{i}.mlp.fc1", "blocks/feed_forward/in"),
        *linear("transformer.blocks.{i}.mlp.fc2", "blocks/feed_forward/out"),
        *norm("norm", "norm"),
        *linear("gs_pred", "gaussians"),
        *_mlp("motion_key_head", "motion/key"),
        *_mlp("motion_basis_decoder", "motion/basis"),
    ]
    if model.motion_tokens:
        table.append(Rule("motion_tokens", "params/motion_tokens", "1 n d -> n d"))
        table += _mlp("motion_query_heads.{i}", "motion/query")
    if model.sky:
        table.append(Rule("sky_token", "params/sky_tokens", "1 n d -> n d"))
        names = {"linear": "in", "condition_mapping": "condition",
                 "adaLN_modulation.1": "modulation", "output": "out"}
        table += [rule for name, ours in names.items()
                  for rule in linear(f"sky_head.{name}", f"sky_head/{ours}")]
    if model.affine != "none":
        table.append(Rule("affine_token", "params/affine_tokens", "1 n d -> n d"))
        table += linear("affine_linear", "affine")
    for k in range(len(model.features)):
        official, ours = f"output_upscaling.{3 * k}", f"motion/map_{k}"
        table += norm(f"output_upscaling.{3 * k + 1}", f"motion/norm_{k}")
        if model.latent:
            table += pointwise(official, ours)
        else:
            table.append(Rule(f"{official}.weight", f"params/{ours}/pixels/kernel",
                              "i o r s -> i (r s o)", _UP))
            table.append(Rule(f"{official}.bias", f"params/{ours}/bias"))
    return (*table, *(_decoder(model.decoder) if model.latent else ()))


def _decoder(channels):
    """ConvDecoder: a flat list of layers."""
    yield Rule("decoder.mask_token", "params/decoder/mask_token")
    yield from conv2d("decoder.input_projection_layer", "decoder/in")
    yield from _block("decoder.layers.0", "decoder/before")
    yield from norm("decoder.layers.1.gn.gn", "decoder/attention_norm")
    yield from _attention("decoder.layers.1.attention", "decoder/attention", {"s": 3, "k": 8})
    yield from _block("decoder.layers.2", "decoder/after")
    place, before = 3, channels[0]
    for level, after in enumerate(channels):
        for k in range(3):
            block = f"decoder/block_{level}_{k}"
            yield from _block(f"decoder.layers.{place}", block)
            if before != after:
                yield from conv2d(f"decoder.layers.{place}.channel_up", f"{block}/skip")
            place, before = place + 1, after
        if level:
            yield from conv2d(f"decoder.layers.{place}.conv", f"decoder/up_{level}")
            place += 1
    yield from norm(f"decoder.layers.{place}.gn", "decoder/norm")
    yield from conv2d(f"decoder.layers.{place + 2}", "decoder/out")


def _block(official, ours):
    for k in range(2):
        yield from norm(f"{official}.block.{3 * k}.gn", f"{ours}/norm_{k}")
        yield from conv2d(f"{official}.block.{3 * k + 2}", f"{ours}/conv_{k}")


def _mlp(official, ours):
    return *linear(f"{official}.fc1", f"{ours}/in"), *linear(f"{official}.fc2", f"{ours}/out")


def _attention(official, ours, heads):
    yield Rule(f"{official}.qkv.weight", f"params/{ours}/qkv/kernel", "(s k d) i -> i s k d", heads)
    yield Rule(f"{official}.qkv.bias", f"params/{ours}/qkv/bias", "(s k d) -> s k d", heads)
    yield Rule(f"{official}.proj.weight", f"params/{ours}/out/kernel", "o (k d) -> k d o", heads)
    yield Rule(f"{official}.proj.bias", f"params/{ours}/out/bias")
