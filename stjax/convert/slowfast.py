"""PyTorchVideo's SlowFast: its checkpoints and the arguments of `create_slowfast`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, linear
from stjax.models.backbones.slowfast import SlowFast

# Counters of batches, which nothing reads.
LEFT_OUT = tuple(
    f"blocks.{{s}}.multipathway_{where}.num_batches_tracked"
    for where in (
        "blocks.{p}.norm",
        "fusion.norm",
        "blocks.{p}.res_blocks.{i}.branch1_norm",
        *(f"blocks.{{p}}.res_blocks.{{i}}.branch2.norm_{k}" for k in "abc"),
    )
)
_PATHWAYS = ("slow", "fast")


def module(arguments: Mapping[str, Any], depths: Sequence[int], classes: int = 0) -> SlowFast:
    """Our network from the arguments of `create_slowfast`."""
    return SlowFast(
        tuple(depths),
        width=arguments["stem_dim_outs"][0],
        ratio=arguments["slowfast_channel_reduction_ratio"][0],
        classes=classes,
    )


def rules(
    depths: Sequence[int], classes: int = 0, official: str = "", ours: str = ""
) -> Iterator[Rule]:
    """The table; without classes that of the trunk, and the head is to be left out."""
    for p, name in enumerate(_PATHWAYS):
        stem = f"{official}blocks.0.multipathway_blocks.{p}"
        yield from _convolved(f"{stem}.conv", f"{stem}.norm", f"{ours}{name}_stem")
        for k, depth in enumerate(depths):
            blocks = f"{official}blocks.{k + 1}.multipathway_blocks.{p}.res_blocks."
            yield from _convolved(
                f"{blocks}0.branch1_conv", f"{blocks}0.branch1_norm", f"{ours}{name}_{k}_first/skip"
            )
            yield from _block_rules(f"{blocks}0.branch2", f"{ours}{name}_{k}_first/")
            if depth > 1:
                yield from _block_rules(
                    f"{blocks}{{i}}.branch2", f"{ours}{name}_{k}_rest/", starts={"i": 1}
                )
    for k in range(len(depths)):
        fusion = f"{official}blocks.{k}.multipathway_fusion"
        yield from _convolved(f"{fusion}.conv_fast_to_slow", f"{fusion}.norm", f"{ours}fuse_{k}")
    if classes:
        yield from linear(f"{official}blocks.6.proj", f"{ours}head")


def _block_rules(official, ours, **options):
    for k in "abc":
        yield Rule(
            f"{official}.conv_{k}.weight", f"params/{ours}conv_{k}/kernel",
            "o i t h w -> t h w i o", **options,
        )
        for rule in batch_norm(f"{official}.norm_{k}", f"{ours}norm_{k}"):
            yield Rule(rule.official, rule.ours, **options)


def _convolved(conv, norm, ours):
    """A convolution and the BatchNorm after it, which has its name and `_norm`."""
    yield Rule(f"{conv}.weight", f"params/{ours}/kernel", "o i t h w -> t h w i o")
    yield from batch_norm(norm, f"{ours}_norm")
