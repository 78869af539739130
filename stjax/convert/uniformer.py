"""UniFormer's checkpoints (github.com/Sense-X/UniFormer) and constructor arguments, for video."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, linear, norm, self_attention
from stjax.models.recognition.uniformer import (
    DividedBlock,
    GlobalBlock,
    LocalBlock,
    UniFormer,
    UniFormerLight,
)

# Counters of batches, which nothing reads.
LEFT_OUT = (
    "blocks{s}.{i}.norm{k}.num_batches_tracked",
    "norm{k}.num_batches_tracked",
    "norm.num_batches_tracked",
    "patch_embed1.proj.{k}.num_batches_tracked",
)
BLOCKS = {"CBlock": LocalBlock, "SABlock": GlobalBlock, "SplitSABlock": DividedBlock}
# Of nn.Conv3d: of one token, of all channels, of a channel each.
POINT, DENSE, DEPTHWISE = "o i 1 1 1 -> i o", "o i t h w -> t h w i o", "c 1 t h w -> t h w c"


def module(config: Mapping[str, Any]) -> UniFormer | UniFormerLight:
    """Our network from the fields of the official configuration's section UNIFORMER."""
    common = {
        "classes": config["NUM_CLASSES"],
        "depths": tuple(config["DEPTH"]),
        "dims": tuple(config["EMBED_DIM"]),
        "head_dim": config["HEAD_DIM"],
    }
    if "PRUNE_RATIO" in config:
        shares = {"keep": "PRUNE_RATIO", "trade_off": "TRADE_OFF"}
        return UniFormerLight(
            mlp_ratio=config["MLP_RATIO"][3],
            **{ours: tuple(map(tuple, config[name][2:])) for ours, name in shares.items()},
            **common,
        )
    pattern = "LLDD" if config["SPLIT"] else "LLGG"
    return UniFormer(
        pattern=pattern, mlp_ratio=config["MLP_RATIO"], overlap=config["STD"], **common
    )


def block(kind: str, config: Mapping[str, Any]) -> LocalBlock | GlobalBlock | DividedBlock:
    """Our block from the arguments of CBlock, SABlock or SplitSABlock."""
    head_dim = config["dim"] // config["num_heads"]
    return BLOCKS[kind](head_dim=head_dim, mlp_ratio=config["mlp_ratio"])


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of Uniformer and of Uniformer_light."""
    light, head_dim = "PRUNE_RATIO" in config, config["HEAD_DIM"]
    table = [*batch_norm("norm", "norm"), *linear("head", "head")]
    if light:
        table += [
            Rule("cls_token", "params/class_token"),
            *linear("cls_upsample", "class_up"),
            *norm("norm_cls", "class_norm"),
            *linear("head_cls", "class_head"),
            *_conv("patch_embed1.proj.0", "embed_0/conv_0", DENSE),
            *batch_norm("patch_embed1.proj.1", "embed_0/norm_0"),
            *_conv("patch_embed1.proj.3", "embed_0/conv_1", DENSE),
            *batch_norm("patch_embed1.proj.4", "embed_0/norm_1"),
        ]
    frames = 3 if config["STD"] else 1
    for k, (window, dim) in enumerate(zip([(3, 4), *[(frames, 2)] * 3], config["EMBED_DIM"])):
        if k or not light:
            table += _tubes(f"patch_embed{k + 1}", f"embed_{k}", *window)
        official = f"blocks{k + 1}.{{i}}."
        pruned = light and k > 1
        ours = f"stage_{k}_{{i}}/" if pruned else f"stage_{k}/"
        if k < 2:
            table += local_rules(official, ours)
        else:
            table += global_rules(dim // head_dim, official, ours)
        if k >= 2 and config["SPLIT"]:
            table += temporal_rules(dim // head_dim, official, ours)
    return tuple(table)


def local_rules(official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of CBlock; `official` and `ours` are what comes before its names."""
    yield from _conv(f"{official}pos_embed", f"{ours}dpe", DEPTHWISE)
    yield from batch_norm(f"{official}norm1", f"{ours}aggregator_norm")
    yield from _conv(f"{official}conv1", f"{ours}value", POINT)
    yield from _conv(f"{official}attn", f"{ours}affinity", DEPTHWISE)
    yield from _conv(f"{official}conv2", f"{ours}out", POINT)
    yield from batch_norm(f"{official}norm2", f"{ours}feed_forward_norm")
    yield from _conv(f"{official}mlp.fc1", f"{ours}feed_forward_in", POINT)
    yield from _conv(f"{official}mlp.fc2", f"{ours}feed_forward_out", POINT)


def global_rules(heads: int, official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of SABlock and EvoSABlock."""
    yield from _conv(f"{official}pos_embed", f"{ours}dpe", DEPTHWISE)
    yield from norm(f"{official}norm1", f"{ours}aggregator_norm")
    yield from self_attention(f"{official}attn", f"{ours}attention", heads)
    yield from norm(f"{official}norm2", f"{ours}feed_forward_norm")
    yield from linear(f"{official}mlp.fc1", f"{ours}feed_forward/in")
    yield from linear(f"{official}mlp.fc2", f"{ours}feed_forward/out")


def temporal_rules(heads: int, official: str = "", ours: str = "") -> Iterator[Rule]:
    """What SplitSABlock has beside the names of SABlock."""
    yield from norm(f"{official}t_norm", f"{ours}temporal_norm")
    yield from self_attention(f"{official}t_attn", f"{ours}temporal_attention", heads)


def inflate(
    image: Mapping[str, np.ndarray], video: Mapping[str, np.ndarray], centre: bool = False
) -> dict[str, np.ndarray]:
    """An official state dict for video out of one for images.

    A convolution's kernel is repeated along time and divided by its frames, or, with `centre`,
    stands in its middle frame. Heads of another number of classes stay those of `video`.

    Args:
        image: the checkpoint of the network of images.
        video: of a fresh network of clips, `to_official(rules, variables)`.

    Raises:
        ValueError: a name of the checkpoint that the network has not, or a shape that cannot be
            inflated to its.
    """
    out = dict(video)
    for name, array in image.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in video:
            raise ValueError(f"image: {name} is no parameter of the network of clips")
        wanted = video[name].shape
        if array.shape == wanted:
            out[name] = array
        elif len(wanted) == 5 and array.shape == (*wanted[:2], *wanted[3:]):
            frames = wanted[2]
            if centre:
                weights = np.eye(frames, dtype=array.dtype)[frames // 2]
            else:
                weights = np.full(frames, 1 / frames, array.dtype)
            out[name] = array[:, :, None] * weights[:, None, None]
        elif not name.startswith("head"):
            raise ValueError(f"image: {name} is {array.shape}, {wanted} in the network of clips")
    return out


def _conv(official, ours, pattern):
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", pattern),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def _tubes(official, ours, frames, patch):
    sizes = {"t": frames, "h": patch, "w": patch}
    kernel = f"params/{ours}/projection/kernel"
    yield Rule(f"{official}.proj.weight", kernel, "o i t h w -> (t h w i) o", sizes)
    yield Rule(f"{official}.proj.bias", f"params/{ours}/projection/bias")
    yield from norm(f"{official}.norm", f"{ours}/norm")
