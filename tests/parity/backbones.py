"""Hugging Face's language and vision models that video language models stand on."""

import jax.numpy as jnp
import optax

from stjax.convert import clip as clip_convert
from stjax.convert import llama as llama_convert
from tests.parity import Case


def images(x):
    return jnp.moveaxis(x, -3, -1)


def next_token_loss(logits, labels):
    """Mean over the tokens that have a label of the cross-entropy of what comes before them."""
    known = labels[:, 1:] >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], jnp.where(known, labels[:, 1:], 0)
    )
    return jnp.sum(losses * known) / known.sum()


def llama(golden):
    module = llama_convert.module(golden.config)

    def forward(variables, inputs):
        (logits, _), inner = module.apply(
            variables, inputs["ids"], None, inputs["mask"],
            capture_intermediates=lambda mdl, _: mdl.name == "norm", mutable="intermediates",
        )
        inner = inner["intermediates"]["decoder"]
        loss = next_token_loss(logits, inputs["labels"])
        return loss, {
            "layer0": inner["blocks"]["layers"]["output"][0][0],
            "last_hidden": inner["norm"]["__call__"][0],
            "logits": logits,
            "loss": loss,
        }

    return Case(forward, llama_convert.rules(golden.config), llama_convert.LEFT_OUT)


def clip(golden):
    module = clip_convert.module(golden.config)

    def forward(variables, inputs):
        logits, inner = module.apply(
            variables, images(inputs["images"]), inputs["ids"], inputs["mask"] > 0,
            capture_intermediates=lambda mdl, _: mdl.name in ("vision", "text"),
            mutable="intermediates",
        )
        inner = inner["intermediates"]
        tokens, pooled = inner["vision"]["__call__"][0]
        words = inner["text"]["__call__"][0]
        last = jnp.argmax(inputs["ids"] == module.end_token, axis=1)
        labels = jnp.arange(len(logits))
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()
            for x in (logits, logits.T)
        ]
        loss = sum(losses) / 2
        return loss, {
            "vision_layer0": inner["vision"]["blocks"]["output"][0][0],
            "text_layer0": inner["text"]["blocks"]["output"][0][0],
            "vision_last_hidden": tokens,
            "vision_pooled": pooled,
            "text_last_hidden": words,
            "text_pooled": words[jnp.arange(len(words)), last],
            "image_embeds": inner["image_embedding"][0],
            "text_embeds": inner["text_embedding"][0],
            "logits_per_image": logits,
            "loss": loss,
        }

    return Case(forward, clip_convert.rules(golden.config), clip_convert.LEFT_OUT)


DRIVERS = {
    "backbones_vlm::llama": llama, "backbones_vlm::qwen2": llama, "backbones_vlm::clip": clip
}
