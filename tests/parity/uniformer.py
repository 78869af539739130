"""UniFormer: whole networks, blocks, the mixing of batches, the samplers of clips."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax

from stjax.convert import uniformer as convert
from stjax.data import clips
from stjax.ops import mixing
from tests.parity import Case

OURS, THEIRS = "b t h w c", "b c t h w"


def clip(x):
    return einops.rearrange(x, f"{THEIRS} -> {OURS}")


def official(x):
    return einops.rearrange(x, f"{OURS} -> {THEIRS}")


def network(golden):
    module = convert.module(golden.config)

    def forward(variables, inputs):
        video = clip(inputs["video"])
        logits, inner = module.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]
        outputs = {"logits": logits, "patch_embed1": official(inner["embedded_0"][0][:1])}
        for stage, samples in ((0, slice(1)), (2, slice(None)), (3, slice(None))):
            first = inner[f"stage_{stage}"]["tokens"][0][0]
            outputs[f"blocks{stage + 1}.0"] = official(first[samples])
        loss = optax.softmax_cross_entropy(logits, inputs["targets"]).mean()
        trained, changed = module.apply(variables, video, train=True, mutable="batch_stats")
        name, tokens = "aggregator_norm", inner["stage_0"]["tokens"][0][0, ..., 0].size
        before, after = (
            {key: value[0] for key, value in tree["batch_stats"]["stage_0"][name].items()}
            for tree in (variables, changed)
        )
        # Theirs is the unbiased variance, flax's the biased one.
        variance = after["var"] - 0.9 * before["var"]
        variance = 0.9 * before["var"] + variance * tokens / (tokens - 1)
        outputs |= {
            "loss": loss,
            "logits_train": trained,
            "train:blocks1.0.norm1.running_mean": after["mean"],
            "train:blocks1.0.norm1.running_var": variance,
        }
        return loss, outputs

    return Case(forward, convert.rules(golden.config), convert.LEFT_OUT)


def light(golden):
    module = convert.module(golden.config)
    last = golden.config["DEPTH"][2] - 1

    def forward(variables, inputs):
        video = clip(inputs["video"])
        logits, inner = module.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]
        return None, {
            "logits": logits,
            "patch_embed1": official(inner["embedded_0"][0][:1]),
            f"blocks3.{last}.cls": inner["class_tokens"][0],
            f"blocks3.{last}": official(inner[f"stage_2_{last}"]["tokens"][0]),
            "global_attn_after_stage3": inner["score"][0],
            "blocks4.0": official(inner["stage_3_0"]["tokens"][0]),
        }

    return Case(forward, convert.rules(golden.config), convert.LEFT_OUT)


def block(kind):
    def driver(golden):
        config = golden.config
        module = convert.block(kind, config)
        if kind == "CBlock":
            rules = tuple(convert.local_rules())
        else:
            rules = tuple(convert.global_rules(config["num_heads"]))
        if kind == "SplitSABlock":
            rules += tuple(convert.temporal_rules(config["num_heads"]))

        def forward(variables, inputs):
            y = official(module.apply(variables, clip(inputs["x"]), None, False)[0])
            return jnp.sum(y * inputs["cotangent"]), {"y": y}

        return Case(forward, rules, convert.LEFT_OUT)

    return driver


def mixup(golden):
    config = golden.config

    def forward(variables, inputs):
        video = clip(inputs["video"])
        labels = inputs["labels"]
        targets = mixing.smoothed(labels, config["num_classes"], config["label_smoothing"])
        cut, share = mixing.cutmix(video, inputs["box"])
        target = mixing.mixup(targets, inputs["lam"])
        return None, {
            "mixup_video": official(mixing.mixup(video, inputs["lam"])),
            "mixup_target": target,
            "cutmix_video": official(cut),
            "cutmix_target": mixing.mixup(targets, share),
            "loss": optax.softmax_cross_entropy(inputs["logits"], target).mean(),
        }

    return Case(forward)


def sampling(golden):
    config = golden.config

    def pad(rows):
        return np.array([[*row, *[-1] * (config["pad"] - len(row))] for row in rows])

    def forward(variables, inputs):
        # numpy by design: the cases come from the manifest.
        ends, dense, segments = [], [], []
        for length, span, view, views, frames in config["dense"]:
            dense.append(clips.dense(length, frames, span // frames, view, views))
            start = clips.dense_start(length, span, view, views)
            ends.append((start, start + span - 1))
        for length, frames, view, views in config["segments"]:
            segments.append(1 + clips.segments(length, frames, view, views))
        outputs = {
            "dense_start_end": np.array(ends, np.float64),
            "dense_frames": pad(dense),
            "segment_frames": pad(segments),
        }
        return None, jax.tree.map(jnp.asarray, outputs)

    return Case(forward)


DRIVERS = {
    "UniFormer::Uniformer": network,
    "UniFormer::Uniformer_light_fp32": light,
    "UniFormer::CBlock": block("CBlock"),
    "UniFormer::SABlock": block("SABlock"),
    "UniFormer::SplitSABlock": block("SplitSABlock"),
    "UniFormer::MixUp": mixup,
    "UniFormer::temporal_sampling": sampling,
}
