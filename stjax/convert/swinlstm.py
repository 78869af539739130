"""SwinLSTM's checkpoints (OpenSTL::SwinLSTM_B_Model, SwinLSTM_D_Model) and arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.driving_swin import attention_rules
from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm, transposed_conv2d
from stjax.models.prediction.swinlstm import SwinLSTM

_CELL = "rollout/cell"


def module(config: Mapping[str, Any]) -> SwinLSTM:
    """Our SwinLSTM from the official arguments of either variant.

    Raises:
        NotImplementedError: patches of another size than 2: the official decoder has no other.
    """
    if config["patch_size"] != 2:
        raise NotImplementedError(f"patch_size: {config['patch_size']}")
    return SwinLSTM(
        depths=_depths(config),
        heads=_heads(config),
        dim=config["embed_dim"],
        window=config["window_size"],
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of either variant."""
    return tuple(_rules(config))


def left_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Official names that hold fixed tables, or what is never read: blocks of odd number see no
    second map, and a frame goes in through the way down alone."""
    names = ["Upsample.patch_embed.proj.weight", "Upsample.patch_embed.proj.bias"]
    names += ["Upsample.patch_embed.norm.weight", "Upsample.patch_embed.norm.bias"]
    for cell, depth in zip(_cells(config), _depths(config)):
        names += [f"{cell}.STBs.{{i}}.attn_mask"]
        names += [f"{cell}.STBs.{{i}}.attn.relative_position_index"]
        for k in range(1, depth, 2):
            names += [f"{cell}.STBs.{k}.red.weight", f"{cell}.STBs.{k}.red.bias"]
    return tuple(names)


def unused_parameters(config: Mapping[str, Any]) -> int:
    """How many of the official model's parameters are never read, and have no place in ours."""
    dim, channels, depths = config["embed_dim"], config["in_shape"][1], _depths(config)
    cells = len(depths)
    levels = [min(k, cells - 1 - k) + (k >= (cells + 1) // 2) for k in range(cells)]
    joins = sum(d // 2 * (2 * w + 1) * w for d, w in zip(depths, [dim * 2**n for n in levels]))
    return joins + ((4 * channels + 3) * dim if cells > 1 else 0)


def _depths(config):
    if "depths" in config:
        return (config["depths"],)
    return (*config["depths_downsample"], *reversed(config["depths_upsample"]))


def _heads(config):
    if "depths" in config:
        return (config["num_heads"],)
    return (*config["num_heads"], *reversed(config["num_heads"]))


def _cells(config):
    if "depths" in config:
        return ("ST.layer",)
    half = len(config["num_heads"])
    return tuple(f"{way}sample.layers.{k}" for way in ("Down", "Up") for k in range(half))


def _rules(config) -> Iterator[Rule]:
    single = "depths" in config
    embed, unembed = ("ST", "ST.patch_inflated") if single else ("Downsample", "Upsample.Unembed")
    patches, ours = f"{embed}.patch_embed.proj", f"params/{_CELL}/patches"
    yield Rule(f"{patches}.weight", f"{ours}/kernel", "o c p q -> (p q c) o", {"p": 2, "q": 2})
    yield Rule(f"{patches}.bias", f"{ours}/bias")
    yield from norm(f"{embed}.patch_embed.norm", f"{_CELL}/patch_norm")
    yield from transposed_conv2d(f"{unembed}.Conv", f"{_CELL}/frame")
    for k, (cell, depth, heads) in enumerate(zip(_cells(config), _depths(config), _heads(config))):
        block, path = f"{cell}.STBs.{{i}}", f"{_CELL}/cell_{k}/block_{{i}}"
        yield from attention_rules(heads, f"{block}.attn.", f"params/{path}/attention")
        yield from norm(f"{block}.norm1", f"{path}/attention_norm")
        yield from norm(f"{block}.norm2", f"{path}/feed_forward_norm")
        yield from linear(f"{block}.mlp.fc1", f"{path}/feed_forward/in")
        yield from linear(f"{block}.mlp.fc2", f"{path}/feed_forward/out")
        for i in range(0, depth, 2):
            yield from linear(f"{cell}.STBs.{i}.red", f"{_CELL}/cell_{k}/block_{i}/join")
    half = 0 if single else len(config["num_heads"])
    for k in range(half):
        merge, expand = f"Downsample.downsample.{k}", f"Upsample.upsample.{k}"
        # The official order of the four pixels is (column, row).
        order, sizes = "(q p c) -> (p q c)", {"p": 2, "q": 2}
        for leaf, name in (("weight", "scale"), ("bias", "bias")):
            path = f"params/{_CELL}/merge_{k}_norm/{name}"
            yield Rule(f"{merge}.norm.{leaf}", path, order, sizes)
        to_ours = "o (q p c) -> (p q c) o"
        yield Rule(f"{merge}.reduction.weight", f"params/{_CELL}/merge_{k}/kernel", to_ours, sizes)
        name = f"expand_{half + k}"
        yield Rule(f"{expand}.expand.weight", f"params/{_CELL}/{name}/kernel", "o i -> i o")
        yield from norm(f"{expand}.norm", f"{_CELL}/{name}_norm")
