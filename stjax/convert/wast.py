"""WaST's checkpoints (OpenSTL v1.0.0) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, conv2d, pointwise
from stjax.models.prediction.wast import WaST

# A layer scale that is never read, fixed tables, counters of batches.
_STAGES = ("translator1", "bottleneck_translator", "translator2")
_NORMS = (
    "norm1", "norm2", "lk1.1", "lk2.1", "sk.1", "low_frequency_attn.bn1", "high_frequency_attn.bn1",
    "temporal_mixer.bn1", "temporal_mixer.bn2", "temporal_mixer.bn3",
)
LEFT_OUT = (
    "wavelet_embed1.DWT.filters",
    "wavelet_recon1.IDWT.filters",
    *(f"{stage}.blocks.{{i}}.layer_scale_2" for stage in _STAGES),
    *(f"{stage}.blocks.{{i}}.{norm}.num_batches_tracked" for stage in _STAGES for norm in _NORMS),
    "conv_in.1.num_batches_tracked",
    "conv_out.0.num_batches_tracked",
    "wavelet_embed1.conv_{i}.1.num_batches_tracked",
    "wavelet_recon1.conv_0.1.num_batches_tracked",
    "wavelet_recon1.conv_hi.1.num_batches_tracked",
)


def module(config: Mapping[str, Any]) -> WaST:
    """Our WaST from the official arguments."""
    return WaST(
        encoder_dim=config["encoder_dim"],
        block_list=tuple(config["block_list"]),
        mlp_ratio=config.get("mlp_ratio", 4.0),
        drop_path=config.get("drop_path_rate", 0.1),
        kept="width",
        shared_scale=True,
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of WaST_level1."""
    del config
    return (
        *_layer("conv_in", "in"),
        *_layer("wavelet_embed1.conv_0", "split"),
        *_layer("wavelet_embed1.conv_1", "low"),
        *_conv3d("wavelet_embed1.conv_emb", "embedding/"),
        *_layer("wavelet_recon1.conv_0", "joined_low"),
        *_conv3d("wavelet_recon1.conv_hi.0", "high_"),
        *batch_norm("wavelet_recon1.conv_hi.1", "high_norm"),
        *conv2d("translator2.concat_block", "concatenated"),
        *batch_norm("conv_out.0", "out_norm"),
        *_conv3d("conv_out.2", "out/"),
        *(
            rule
            for k, stage in enumerate(_STAGES)
            for rule in _block(f"{stage}.blocks.{{i}}.", f"blocks_{k}/")
        ),
    )


def _block(official: str, ours: str) -> Iterator[Rule]:
    """The rows of TF_AwareBlock below two prefixes."""
    yield Rule(f"{official}layer_scale_1", f"params/{ours}scale")
    yield from batch_norm(f"{official}norm1", f"{ours}norm")
    yield from batch_norm(f"{official}norm2", f"{ours}mixer_norm")
    for theirs, name in (("lk1", "upright"), ("lk2", "lying"), ("sk", "small")):
        yield _depthwise(f"{official}{theirs}.0", f"{ours}{name}")
        yield Rule(f"{official}{theirs}.0.bias", f"params/{ours}{name}/bias")
        yield from batch_norm(f"{official}{theirs}.1", f"{ours}{name}_norm")
    for name in ("low", "high"):
        attention = f"{official}{name}_frequency_attn."
        yield from pointwise(f"{attention}conv1", f"{ours}{name}/in")
        yield from batch_norm(f"{attention}bn1", f"{ours}{name}/norm")
        yield from pointwise(f"{attention}conv_h", f"{ours}{name}/rows")
        yield from pointwise(f"{attention}conv_w", f"{ours}{name}/columns")
    mixer, ours = f"{official}temporal_mixer.", f"{ours}mixer/"
    yield pointwise(f"{mixer}conv_pw", f"{ours}in")[0]
    yield _depthwise(f"{mixer}conv_dw", f"{ours}mix")
    yield pointwise(f"{mixer}conv_pwl", f"{ours}out")[0]
    for k, name in enumerate(("in", "mix", "out"), start=1):
        yield from batch_norm(f"{mixer}bn{k}", f"{ours}{name}_norm")
    yield from pointwise(f"{mixer}se.conv_reduce", f"{ours}excite/reduce")
    yield from pointwise(f"{mixer}se.conv_expand", f"{ours}excite/expand")


def _layer(official, ours):
    yield from _conv3d(f"{official}.0", f"{ours}/")
    yield from batch_norm(f"{official}.1", f"{ours}_norm")


def _conv3d(official, ours):
    yield Rule(f"{official}.weight", f"params/{ours}kernel", "o i t h w -> t h w i o")
    yield Rule(f"{official}.bias", f"params/{ours}bias")


def _depthwise(official, ours):
    return Rule(f"{official}.weight", f"params/{ours}/kernel", "c 1 h w -> h w c")
