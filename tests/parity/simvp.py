"""SimVP and the gSTA translator."""

import einops
import jax.numpy as jnp
import pytest

from stjax.convert import simvpv2 as convert
from stjax.models.prediction.simvp import GatedSpatiotemporalAttention, GSTABlock
from tests.parity import Case

last = lambda frames: jnp.moveaxis(frames, 1, -1)
first = lambda frames: jnp.moveaxis(frames, -1, 1)


def model(golden):
    config = golden.config
    try:
        module = convert.module(config)
    except NotImplementedError as error:
        pytest.skip(f"{golden.name}: {error} does not stand here yet")

    def forward(variables, inputs):
        predict = lambda video, **options: module.apply(variables, video, **options)
        official = lambda video: einops.rearrange(video, "b t h w c -> b t c h w")
        video = einops.rearrange(inputs["x"], "b t c h w -> b t h w c")
        y, inner = predict(video, mutable="intermediates")
        loss = jnp.mean(jnp.square(official(y) - inputs["target"]))
        inner = inner["intermediates"]
        translator = inner["translator"]
        outputs = {
            "y": official(y),
            "loss": loss,
            "embed": first(inner["embedded"][0]),
            "skip": first(inner["skip"][0]),
            "translated": first(inner["translated"][0]),
            "block_0": first(translator["first"]["out"][0]),
        }
        if "middle" in translator:
            for i, block in enumerate(translator["middle"]["out"][0], start=1):
                outputs[f"block_{i}"] = first(block)
        clips = [y]
        for horizon in config.get("aft_seq_length", ()):
            while len(clips) * y.shape[1] < horizon:
                clips.append(predict(clips[-1]))
            outputs[f"predict_{horizon}"] = official(jnp.concatenate(clips, 1)[:, :horizon])
        return loss, outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT)


def attention(golden):
    args = golden.config["args"]
    module = GatedSpatiotemporalAttention(
        args["kernel_size"], shortcut=args.get("attn_shortcut", True)
    )

    def forward(variables, inputs):
        y, inner = module.apply(variables, last(inputs["x"]), mutable="intermediates")
        y = first(y)
        gate = first(inner["intermediates"]["gated"][0])
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "gate": gate}

    return Case(forward, tuple(convert.gsta_attention("", "")))


def block(golden):
    args = golden.config["args"]
    module = GSTABlock(
        args.get("kernel_size", 21), args.get("mlp_ratio", 4.0), args.get("drop", 0.0)
    )

    def forward(variables, inputs):
        y, inner = module.apply(variables, last(inputs["x"]), train=False, mutable="intermediates")
        y, inner = first(y), inner["intermediates"]
        outputs = {"y": y, "attn": first(inner["attended"][0]), "mlp": first(inner["mixed"][0])}
        return jnp.sum(y * inputs["cotangent"]), outputs

    counters = ("norm1.num_batches_tracked", "norm2.num_batches_tracked")
    return Case(forward, tuple(convert.gsta_block("", "")), counters)


DRIVERS = {
    "OpenSTL::SimVP_Model": model,
    "OpenSTL::SpatialAttention": attention,
    "OpenSTL::GASubBlock": block,
}
