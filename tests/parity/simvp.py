"""SimVP with all its translators, TAU's loss, the first code's SimVP, and parts of gSTA."""

import einops
import flax.linen as nn
import jax.numpy as jnp

from stjax.convert import simvpv2 as convert
from stjax.layers.gated_convolution import GatedSpatiotemporalAttention
from stjax.models.prediction.translators import GSTABlock
from stjax.tasks import losses
from tests import quick
from tests.parity import Case

last = lambda frames: jnp.moveaxis(frames, 1, -1)
first = lambda frames: jnp.moveaxis(frames, -1, 1)
frames_last = lambda video: jnp.moveaxis(video, 2, -1)
frames_first = lambda video: jnp.moveaxis(video, -1, 2)


def model(golden):
    config = golden.config
    module = convert.module(config)

    def forward(variables, inputs):
        def predict(video, **options):
            with nn.intercept_methods(quick.groups_at_once):
                return module.apply(variables, video, **options)

        video, target = map(frames_last, (inputs["x"], inputs["target"]))
        y, inner = predict(video, mutable="intermediates")
        inner = inner["intermediates"]
        outputs = {
            "y": frames_first(y),
            "loss": losses.mse(y, target),
            "embed": first(inner["embedded"][0]),
            "skip": first(inner["skip"][0]),
            "translated": first(inner["translated"][0]),
            **blocks(inner["translator"]),
        }
        if "alpha" in config:
            outputs["mse"] = outputs["loss"]
            outputs["diff_div_reg"] = losses.differential_divergence(y, target)
            outputs["loss"] = losses.mse_and_divergence(y, target, config["alpha"])
        clips = [y]
        for horizon in config.get("aft_seq_length", ()):
            while len(clips) * y.shape[1] < horizon:
                clips.append(predict(clips[-1]))
            outputs[f"predict_{horizon}"] = frames_first(jnp.concatenate(clips, 1)[:, :horizon])
        return outputs["loss"], outputs

    return Case(forward, convert.rules(config), convert.LEFT_OUT)


def blocks(inner):
    """What the translator's blocks give, but the last one; IncepU's are its encoder's layers."""
    outputs = [inner["first"]["out"][0], *inner.get("middle", inner.get("encoder"))["out"][0]]
    return {f"block_{i}": first(out) for i, out in enumerate(outputs)}


def first_model(golden):
    """The model of the first publication."""
    module = convert.first_module(golden.config)

    def forward(variables, inputs):
        video, target = map(frames_last, (inputs["x"], inputs["target"]))
        with nn.intercept_methods(quick.groups_at_once):
            y, inner = module.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]
        translated = einops.rearrange(
            inner["translated"][0], "b h w (t c) -> b t c h w", t=video.shape[1]
        )
        outputs = {
            "y": frames_first(y),
            "loss": losses.mse(y, target),
            "embed": first(inner["embedded"][0]),
            "enc_0": first(inner["translator"]["first"]["out"][0]),
            "translated": translated,
        }
        return outputs["loss"], outputs

    # A value in the decoder lies 4e-9 from LeakyReLU's kink: in float32 it is on the other side.
    gradients = {name: 5e-3 for name in golden.outputs if name.startswith("grad:")}
    return Case(forward, convert.first_rules(golden.config), in_float32=gradients)


def attention(golden):
    args = golden.config["args"]
    module = GatedSpatiotemporalAttention(
        kernel_size=args["kernel_size"], shortcut=args.get("attn_shortcut", True)
    )

    def forward(variables, inputs):
        y, inner = module.apply(variables, last(inputs["x"]), mutable="intermediates")
        y = first(y)
        gate = first(inner["intermediates"]["gated"][0])
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "gate": gate}

    return Case(forward, convert.block(convert.ATTENTION))


def block(golden):
    args = golden.config["args"]
    module = GSTABlock(
        kernel_size=args.get("kernel_size", 21),
        mlp_ratio=args.get("mlp_ratio", 4.0),
        drop=args.get("drop", 0.0),
    )

    def forward(variables, inputs):
        y, inner = module.apply(variables, last(inputs["x"]), train=False, mutable="intermediates")
        y, inner = first(y), inner["intermediates"]
        outputs = {"y": y, "attn": first(inner["attended"][0]), "mlp": first(inner["mixed"][0])}
        return jnp.sum(y * inputs["cotangent"]), outputs

    counters = ("norm1.num_batches_tracked", "norm2.num_batches_tracked")
    return Case(forward, convert.block(convert.BLOCKS["gsta"]), counters)


DRIVERS = {
    "OpenSTL::SimVP_Model": model,
    "SimVP::SimVP": first_model,
    "OpenSTL::SpatialAttention": attention,
    "OpenSTL::GASubBlock": block,
}
