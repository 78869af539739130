"""GDKVM's checkpoints (github.com/wangrui2025/GDKVM) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import batch_norm, conv2d, linear, norm, pointwise
from stjax.models.dense.gdkvm import GDKVM, resnet18, resnet50

# Tables that we compute, and counters of batches, which nothing reads.
LEFT_OUT = (
    "object_transformer.spatial_pe.inv_freq",
    "object_summarizer.pos_enc.inv_freq",
    *(
        f"{encoder}.{layer}.num_batches_tracked"
        for encoder in ("image_encoder", "mask_encoder")
        for layer in ("bn1", "layer{s}.{i}.bn{k}", "layer{s}.{i}.downsample.1")
    ),
)
ENCODERS = {"resnet18": resnet18, "resnet50": resnet50}
DECODERS = {"base": (256, 128, 128), "small": (256, 128, 64)}


def module(config: Mapping[str, Any], **options: Any) -> GDKVM:
    """Our network from the arguments of GDKVM; `options` are further fields of ours."""
    return GDKVM(
        ENCODERS[config["image_encoder_type"]],
        ENCODERS[config["mask_encoder_type"]],
        decoder=DECODERS[config["model_type"]],
        **options,
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of GDKVM."""
    frame = "frame"
    return (
        *resnet_rules(config["image_encoder_type"], "image_encoder", "image_encoder"),
        *pointwise("pix_projector.layer", "pixel_projector"),
        *pointwise("key_projector.layer1", "key_in"),
        *conv2d("key_projector.layer2", "key_out"),
        *kpff_rules("KPFF.", "kpff/"),
        *rule_rules("", f"{frame}/rule/"),
        *resnet_rules(
            config["mask_encoder_type"], "mask_encoder", f"{frame}/mask_encoder/backbone"
        ),
        *_fuser("mask_encoder.fuser", f"{frame}/mask_encoder/fuser"),
        *conv2d("mask_encoder.sensory_updater.transform", f"{frame}/mask_encoder/sensory/gates"),
        *_fuser("pixel_fuser.fuser", f"{frame}/pixel_fuser"),
        *pointwise("pixel_fuser.conv", f"{frame}/known"),
        *summarizer_rules("object_summarizer.", f"{frame}/summarizer/"),
        *transformer_rules(8, "object_transformer.", f"{frame}/object_transformer/"),
        *_decoder(config["model_type"], "mask_decoder.", f"{frame}/mask_decoder/"),
        *pointwise("aux_computer.sensory_aux.projection", f"{frame}/sensory_head"),
    )


def kpff_rules(official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of KPFF; `official` and `ours` are what comes before its names."""
    yield from pointwise(f"{official}layer1", f"{ours}pixels_in")
    yield from conv2d(f"{official}layer2", f"{ours}pixels_out")
    yield from pointwise(f"{official}gate_layer", f"{ours}gate")


def rule_rules(official: str = "", ours: str = "") -> Iterator[Rule]:
    """The gates of the memory."""
    yield Rule(f"{official}b_proj.weight", f"params/{ours}beta/kernel", "o i -> i o")
    yield Rule(f"{official}a_proj.weight", f"params/{ours}alpha/kernel", "o i -> i o")
    yield Rule(f"{official}A_log", f"params/{ours}log_rate")
    yield Rule(f"{official}dt_bias", f"params/{ours}step_bias")


def resnet_rules(kind: str, official: str, ours: str) -> Iterator[Rule]:
    """The table of torchvision's ResNets up to their third stage."""
    yield from _conv_norm(f"{official}.conv1", f"{official}.bn1", ours, "stem")
    for stage in range(3):
        for number, suffix in (("0", "_first"), ("{i}", "")):
            path = f"{ours}/stage_{stage}{suffix}"
            block = f"{official}.layer{stage + 1}.{number}"
            for k in range(3 if kind == "resnet50" else 2):
                yield from _conv_norm(f"{block}.conv{k + 1}", f"{block}.bn{k + 1}", path, str(k))
            if number == "0" and (stage or kind == "resnet50"):
                down = f"{block}.downsample"
                yield from _conv_norm(f"{down}.0", f"{down}.1", path, "skip")


def summarizer_rules(official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of ObjectSummarizer."""
    yield from linear(f"{official}input_proj", f"{ours}project")
    for mlp in ("feature", "weight"):
        name = f"{official}{mlp}{'s' * (mlp == 'weight')}_pred"
        yield from linear(f"{name}.0", f"{ours}{mlp}s_in")
        yield from linear(f"{name}.2", f"{ours}{mlp}s_out")


def transformer_rules(heads: int, official: str = "", ours: str = "") -> Iterator[Rule]:
    """The table of QueryTransformer."""
    yield Rule(f"{official}query_init.weight", f"params/{ours}query")
    yield Rule(f"{official}query_emb.weight", f"params/{ours}query_code")
    yield from linear(f"{official}summary_to_query_init", f"{ours}summary_to_query")
    yield from linear(f"{official}summary_to_query_emb", f"{ours}summary_to_query_code")
    yield from pointwise(f"{official}pixel_init_proj", f"{ours}pixel")
    yield from pointwise(f"{official}pixel_emb_proj", f"{ours}pixel_code")
    yield from pointwise(f"{official}mask_pred.0.1", f"{ours}mask")
    for part, pattern in (("weight", "o i 1 1 -> i o"), ("bias", None)):
        path = f"params/{ours}blocks/mask/{'kernel' if part == 'weight' else 'bias'}"
        yield Rule(f"{official}mask_pred.{{i}}.1.{part}", path, pattern, starts={"i": 1})
    block, path = f"{official}blocks.{{i}}.", f"{ours}blocks/"
    for name, layer in (
        ("read_from_pixel", "cross_attn"), ("self_attn", "self_attn"),
        ("read_from_query", "cross_attn"),
    ):
        mine = path + name.replace("attn", "attention")
        yield from _attention(heads, f"{block}{name}.{layer}", mine)
        if name != "read_from_query":
            yield from norm(f"{block}{name}.norm", f"{mine}_norm")
    yield from linear(f"{block}ffn.linear1", f"{path}feed_forward/in")
    yield from linear(f"{block}ffn.linear2", f"{path}feed_forward/out")
    yield from norm(f"{block}ffn.norm", f"{path}feed_forward_norm")
    yield from _ca_block(f"{block}pixel_ffn.conv", f"{path}pixel_feed_forward")


def _decoder(model_type, official, ours):
    for k, (finer, step) in enumerate((("f8", "16_to_8"), ("f4", "8_to_4"))):
        up = f"{official}upsample_{step}"
        yield from pointwise(f"{official}linear_proj_{finer}", f"{ours}skip_{k}")
        yield from conv2d(f"{up}.conv1", f"{ours}in_{k}")
        yield from conv2d(f"{up}.conv2", f"{ours}out_{k}")
        if DECODERS[model_type][k] != DECODERS[model_type][k + 1]:
            yield from pointwise(f"{up}.linear_proj", f"{ours}project_{k}")
    yield from pointwise(f"{official}pred", f"{ours}mask")
    for k, level in enumerate((16, 8, 4)):
        yield from pointwise(f"{official}sensory_updater.g{level}_conv", f"{ours}sensory_{k}")
    yield from conv2d(f"{official}sensory_updater.transform", f"{ours}sensory/gates")


def _fuser(official, ours):
    yield from pointwise(f"{official}.x_transform", f"{ours}/pixels")
    yield from pointwise(f"{official}.y_transform", f"{ours}/objects")
    for k in range(2):
        yield from _ca_block(f"{official}.layer{k + 1}", f"{ours}/block_{k}")


def _ca_block(official, ours):
    yield from conv2d(f"{official}.conv1", f"{ours}/conv_0")
    yield from conv2d(f"{official}.conv2", f"{ours}/conv_1")
    yield Rule(f"{official}.conv.weight", f"params/{ours}/attention/kernel", "o i s -> s i o")


def _conv_norm(conv, bn, ours, name):
    starts = {"i": 1}
    kernel, shape = f"params/{ours}/conv_{name}/kernel", "o i h w -> h w i o"
    yield Rule(f"{conv}.weight", kernel, shape, starts=starts)
    for rule in batch_norm(bn, f"{ours}/norm_{name}"):
        yield Rule(rule.official, rule.ours, starts=starts)


def _attention(heads, official, ours):
    paths = lambda leaf: tuple(f"params/{ours}/{x}/{leaf}" for x in ("query", "key", "value"))
    split, sections = {"a": 3 * heads}, (heads,) * 3
    yield Rule(
        f"{official}.in_proj_weight", paths("kernel"), "(a d) i -> i a d", split, 1, sections
    )
    yield Rule(f"{official}.in_proj_bias", paths("bias"), "(a d) -> a d", split, 0, sections)
    out = f"params/{ours}/out"
    yield Rule(
        f"{official}.out_proj.weight", f"{out}/kernel", "o (h d) -> h d o", {"h": heads}
    )
    yield Rule(f"{official}.out_proj.bias", f"{out}/bias")
