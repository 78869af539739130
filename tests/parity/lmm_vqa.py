"""LMM-VQA: the whole, its projectors, its language model, SlowFast, and its metrics."""

import functools
import json

import einops
import jax.numpy as jnp
import numpy as np

from stjax.convert import llama as llama_convert
from stjax.convert import lmm_vqa as convert
from stjax.convert import slowfast as slowfast_convert
from stjax.metrics import quality
from stjax.models.backbones.slowfast import slow_frames
from stjax.models.language import lmm_vqa
from tests.parity import Case
from tests.parity.backbones import next_token_loss


def network(golden):
    module = convert.module(golden.config)

    def forward(variables, inputs):
        frames = einops.rearrange(inputs["frames"], "b s c h w -> (b s) h w c")
        clip = module.bind(variables).clip
        features, _ = clip(frames)
        features = features.reshape(*inputs["motion"].shape[:2], *features.shape[1:])
        see = functools.partial(module.apply, variables, mutable="intermediates")
        visual, inner = see(features, inputs["motion"], method="project")
        ids = inputs["ids"]
        behind = -(ids.shape[1] - 1 + visual.shape[1]) % 8
        padded = jnp.pad(ids, ((0, 0), (0, behind)))
        (hidden, _), read = see(visual, padded, method="read")
        logits = module.bind(variables).head(hidden)
        # The labels, where the visual tokens have none.
        before = jnp.argmax(ids == module.image_token, 1)[:, None]
        at = jnp.arange(logits.shape[1])
        source = jnp.where(at < before, at, at - visual.shape[1] + 1)
        inside = (at >= before) & (at < before + visual.shape[1]) | (source >= ids.shape[1])
        labels = jnp.take_along_axis(inputs["labels"], jnp.clip(source, 0, ids.shape[1] - 1), 1)
        loss = next_token_loss(logits, jnp.where(inside, -100, labels))
        return loss, {
            "clip_features": features[:, :, :2],
            "joint_tokens": inner["intermediates"]["joint"][0],
            "visual_tokens": visual,
            "layer0": read["intermediates"]["language"]["blocks"]["layers"]["output"][0][0][:, ::3],
            "logits": logits,
            "loss": loss,
        }

    return Case(forward, convert.rules(golden.config), convert.LEFT_OUT)


def projector(golden):
    config = golden.config
    width, heads = config["clip"]["hidden_size"], config["clip"]["num_attention_heads"]
    hidden = config["clip"]["intermediate_size"]
    temporal = lmm_vqa.MotionProjector(width)
    spatial = lmm_vqa.SpatialProjector(config["lang_dim"], heads, hidden)

    def forward(variables, inputs):
        params = variables["params"]
        frames = inputs["frames"]
        token = temporal.apply({"params": params["motion_projector"]}, inputs["motion"])[:, :, None]
        joint = jnp.concatenate([frames, token], 2).mean(1)
        own = {"params": params["projector"]}
        out, inner = spatial.apply(own, joint, mutable="intermediates")
        loss = jnp.mean(out**2 * jnp.arange(out.shape[-1]))
        return loss, {
            "motion_token": token[:, :, 0],
            "joint_tokens": joint,
            "layer": inner["intermediates"]["block"]["output"][0],
            "out": out,
            "fused_motion": lmm_vqa.aligned(token, frames).mean(1),
        }

    return Case(forward, tuple(convert.projector_rules(config["clip"])))


def language(golden):
    config = golden.config["llama"]
    mixers = {"mmca": {"attend": functools.partial(lmm_vqa.mmca, leak=True)}, "plain": {}}

    def forward(variables, inputs):
        outputs = {}
        for name, options in mixers.items():
            whole = llama_convert.module(config, **options)
            (hidden, _), inner = whole.decoder.apply(
                {"params": variables["params"]["decoder"]}, inputs["embeds"], None,
                inputs["types"], mutable="intermediates",
            )
            inner = inner["intermediates"]["blocks"]["layers"]
            outputs |= {
                f"{name}/attn0": inner["attended"][0][0],
                f"{name}/layer0": inner["output"][0][0],
                f"{name}/logits": hidden @ variables["params"]["head"]["kernel"],
            }
        return None, outputs

    return Case(forward, llama_convert.rules(config), llama_convert.LEFT_OUT)


def motion(golden):
    config = golden.config
    classes = config["kw"]["model_num_class"]
    trunk = slowfast_convert.module(config["kw"], config["depths"])
    whole = slowfast_convert.module(config["kw"], config["depths"], classes)
    official = lambda x, frames: einops.rearrange(
        x[:, ::frames, ::2, ::2], "b t h w c -> b c t h w"
    )

    def forward(variables, inputs):
        clip = einops.rearrange(inputs["frames"], "b c t h w -> b t h w c")
        features, inner = trunk.apply(variables, clip, mutable="intermediates")
        inner, half = inner["intermediates"], golden.outputs["slow"].shape[1]
        outputs = {
            "motion": features, "slow": features[:, :half], "fast": features[:, half:],
            "class_logits": whole.apply(variables, clip),
            "slow_index": jnp.asarray(slow_frames(clip.shape[1], trunk.alpha)),
        }
        for k in (0, 1):
            outputs[f"block{k}_slow"] = official(inner[f"slow_after_fuse_{k}"][0], 1)
            outputs[f"block{k}_fast"] = official(inner[f"fast_after_fuse_{k}"][0], 3)
        return None, outputs

    rules = tuple(slowfast_convert.rules(config["depths"], classes))
    return Case(forward, rules, slowfast_convert.LEFT_OUT)


def metrics(golden):
    def forward(variables, inputs):
        # numpy by design: the cases come from the file.
        texts = json.loads(str(golden.inputs["texts"]))
        predicted, true, mos = (golden.inputs[key] for key in ("preds", "labels", "mos"))
        cuts = quality.level_cuts(mos)
        outputs = {
            "parsed": [quality.parse_score(text) for text in texts],
            "fit": list(quality.agreement(predicted, true).values()),
            "no_fit": list(quality.agreement(predicted, true, fit=False).values()),
            "fitted_predictions": quality.logistic_fit(
                predicted.astype(np.float64), true.astype(np.float64)
            ),
            "cuts": cuts,
        }
        return None, {key: jnp.asarray(value) for key, value in outputs.items()}

    mos = golden.inputs["mos"].astype(np.float64)
    cuts = quality.level_cuts(mos)
    texts = {
        "levels": [quality.level(score, cuts) for score in mos],
        "score_text": [quality.score_text(score) for score in mos],
    }
    return Case(forward, texts={key: np.array(value) for key, value in texts.items()})


DRIVERS = {
    "ds-vqa-yuyu::VisProjection_vit": projector,
    "ds-vqa-yuyu::LlamaForCausalLM": language,
    "ds-vqa-yuyu::DeepSpeedViLModel": network,
    "lmm_vqa::motion": motion,
    "lmm_vqa::metrics": metrics,
}
