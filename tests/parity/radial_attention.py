"""Radial attention: the paper's mask, the released code's block masks, attention under them."""

import jax.numpy as jnp
import numpy as np

from stjax.ops.attention import Radial, RadialBlocks, attention, merge
from tests.parity import Case


def masks(golden):
    outputs = {"kept": [], "windows": [], "split_keep": []}
    for number, (total, tokens, frames, block, decay, model) in enumerate(golden.config["cases"]):
        mask = RadialBlocks(tokens, frames, block, decay, model)
        seen = mask.blocks(total, total, block, block) > 0
        seen = seen[: total // block, : total // block]
        outputs[f"mask_{number}"] = np.packbits(seen)
        outputs["kept"].append(seen.sum())
        outputs["windows"].append([mask.half_width(distance) for distance in range(8)])
        outputs["split_keep"].append([mask.keeps(distance) for distance in range(8)])
    outputs = {name: jnp.asarray(output) for name, output in outputs.items()}
    return Case(lambda variables, inputs: (None, outputs))


def equation_4(golden):
    outputs = {"kept": []}
    for number, (frames, tokens, sink) in enumerate(golden.config["cases"]):
        position = np.arange(frames * tokens)
        seen = Radial(tokens, sink).visible(position[:, None], position)
        outputs[f"mask_{number}"] = np.packbits(seen)
        outputs["kept"].append(seen.sum())
    outputs = {name: jnp.asarray(output) for name, output in outputs.items()}
    return Case(lambda variables, inputs: (None, outputs))


def attend(golden):
    config = golden.config
    tokens, frames, block = (config[k] for k in ("tokens_per_frame", "frames", "block_size"))
    mask = RadialBlocks(tokens, frames, block, config["decay_factor"], config["model_type"])
    clip = tokens * frames

    def forward(variables, inputs):
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        valid = jnp.asarray(inputs.get("key_mask", np.ones(q.shape[1])), bool)[None]
        everything = attention(q, k, v, key_mask=valid)
        video, lse_video = attention(
            *(x[:, :clip] for x in (q, k, v)), mask, block=block, with_logsumexp=True
        )
        seen = mask.blocks(clip, clip, block, block) > 0
        outputs = {
            "block_mask": jnp.asarray(np.packbits(seen)),
            "dense_first_frame": everything[:, :16].reshape(1, 16, -1),
            "lse_video": lse_video[0],
        }
        if config["text_tokens"]:
            text, lse_text = attention(
                q[:, :clip], k[:, clip:], v[:, clip:], key_mask=valid[:, clip:], with_logsumexp=True
            )
            video, lse = merge([(video, lse_video), (text, lse_text)])
            outputs |= {"lse_text": lse_text[0], "lse_merged": lse[0]}
        output = jnp.concatenate([video, everything[:, clip:]], axis=1)
        return None, outputs | {"output": output.reshape(*output.shape[:2], -1)}

    return Case(forward)


DRIVERS = {
    "radial_attention::eq4": equation_4,
    "radial-attention::gen_log_mask_shrinked": masks,
    "radial-attention::RadialAttention": attend,
}
