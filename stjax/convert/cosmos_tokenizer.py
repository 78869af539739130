"""Checkpoints of NVIDIA's Cosmos discrete video tokenizers (factorised), and their arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import norm
from stjax.models.generation.cosmos_tokenizer import CosmosTokenizer

Config = Mapping[str, Any]


def module(config: Config) -> CosmosTokenizer:
    """Our tokenizer of `CausalDiscreteVideoTokenizer`'s arguments."""
    levels, side = len(config["channels_mult"]), config["resolution"] // config["patch_size"]
    sides = [side // 2**level for level in range(levels)]
    return CosmosTokenizer(
        channels=config["in_channels"],
        features=config["channels"],
        multipliers=tuple(config["channels_mult"]),
        blocks=config["num_res_blocks"],
        attention_levels=tuple(i for i in range(levels) if sides[i] in config["attn_resolutions"]),
        patch=config["patch_size"],
        time=config["temporal_compression"],
        space=config["spatial_compression"],
        latents=config["z_channels"],
        scalars=tuple(config["levels"]),
    )


def rules(config: Config) -> tuple[Rule, ...]:
    """The table of a `CausalDiscreteVideoTokenizer`."""
    last = len(config["channels_mult"]) - 1
    down, up = module(config).stages
    table = [*_dense("quant_conv", "to_scalars"), *_dense("post_quant_conv", "from_scalars")]
    for side, way, stages in (("encoder", "down", down), ("decoder", "up", up)):
        table += _conv(f"{side}.conv_in", f"{side}/in_conv")
        table += _conv(f"{side}.conv_out", f"{side}/out_conv")
        table += norm(f"{side}.norm_out.norm", f"{side}/norm")
        table += _block(f"{side}.mid.block_1", f"{side}/middle_0_block")
        table += _block(f"{side}.mid.block_2", f"{side}/middle_1_block")
        table += _attention(f"{side}.mid.attn_1", f"{side}/middle_0")
        features = stages[0].features if side == "decoder" else config["channels"]
        for i, stage in enumerate(stages):
            level = i if side == "encoder" else last - i
            official, ours = f"{side}.{way}.{level}", f"{side}/stage_{i}"
            table += _block(f"{official}.block.{{j}}", f"{ours}_{{j}}_block")
            if features != (features := stage.features):
                table += _dense(f"{official}.block.0.nin_shortcut", f"{ours}_0_block/shortcut")
            if stage.attends:
                table += _attention(f"{official}.attn.{{j}}", f"{ours}_{{j}}")
            if stage.space or stage.time:
                table += _resampling(f"{official}.{way}sample", f"{ours}_resample", stage, side)
    return tuple(table)


def left_out(config: Config) -> tuple[str, ...]:
    """Convolutions of resampling along axes that a level leaves alone: made, and never read."""
    last = len(config["channels_mult"]) - 1
    down, up = module(config).stages
    unread = []
    for side, way, stages in (("encoder", "down", down), ("decoder", "up", up)):
        for i, stage in enumerate(stages[:last]):
            level = i if side == "encoder" else last - i
            read = {"space": stage.space, "time": stage.time, "out": stage.space or stage.time}
            unread += [
                f"{side}.{way}.{level}.{way}sample.conv{number}.conv3d.{leaf}"
                for name, number in _NUMBERS[side].items()
                for leaf in ("weight", "bias")
                if not read[name]
            ]
    return tuple(unread)


# Of a resampling's convolutions, on either side.
_NUMBERS = {
    "encoder": {"space": 1, "time": 2, "out": 3},
    "decoder": {"time": 1, "space": 2, "out": 3},
}


def _block(official: str, ours: str) -> Iterator[Rule]:
    for k in (1, 2):
        yield from norm(f"{official}.norm{k}.norm", f"{ours}/norm{k}")
        yield from _conv(f"{official}.conv{k}", f"{ours}/conv{k}")


def _attention(official: str, ours: str) -> Iterator[Rule]:
    for number, over in enumerate(("space", "time")):
        yield from norm(f"{official}.{number}.norm.norm", f"{ours}_{over}/norm")
        for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
            yield from _dense(f"{official}.{number}.{theirs}", f"{ours}_{over}/{name}")


def _resampling(official: str, ours: str, stage, side: str) -> Iterator[Rule]:
    numbers = _NUMBERS[side]
    for name in ("space", "time"):
        if getattr(stage, name):
            yield from _conv3d(f"{official}.conv{numbers[name]}.conv3d", f"{ours}/{name}")
    yield from _dense(f"{official}.conv{numbers['out']}", f"{ours}/out")


def _conv(official: str, ours: str) -> Iterator[Rule]:
    """A factorised convolution."""
    for number, name in enumerate(("space", "time")):
        yield from _conv3d(f"{official}.{number}.conv3d", f"{ours}/{name}")


def _conv3d(official: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{official}.weight", f"params/{ours}/kernel", "o i t h w -> t h w i o")
    yield Rule(f"{official}.bias", f"params/{ours}/bias")


def _dense(official: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{official}.conv3d.weight", f"params/{ours}/kernel", "o i 1 1 1 -> i o")
    yield Rule(f"{official}.conv3d.bias", f"params/{ours}/bias")
