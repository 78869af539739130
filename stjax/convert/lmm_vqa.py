"""LMM-VQA's checkpoints (github.com/Zhanghahah/ds-vqa-yuyu) and configuration."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert import clip, llama
from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm
from stjax.models.backbones.slowfast import SlowFast
from stjax.models.language.lmm_vqa import LmmVqa, mmca

# The decoder's own table of embeddings: a trained copy of it, `lang_embed`, is what is read.
LEFT_OUT = ("lang_decoder.model.embed_tokens.weight", *clip.LEFT_OUT, *llama.LEFT_OUT)


def module(config: Mapping[str, Any], image_token: int = 1) -> LmmVqa:
    """Our network from theirs: with attention that leaks, and rotary codes of base 10,000."""
    language = config["llama"]
    attend = {"attend": functools.partial(mmca, leak=True)} if config["mmca"] else {}
    return LmmVqa(
        clip.vision(config["clip"]),
        SlowFast(),
        llama.decoder(language, **attend),
        vocabulary=language["vocab_size"],
        width=language["hidden_size"],
        image_token=image_token,
    )


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table, but for SlowFast, which is a checkpoint of its own (`stjax.convert.slowfast`)."""
    return (
        *clip.vision_rules(config["clip"], "vis_encoder.", "clip/"),
        *projector_rules(config["clip"]),
        Rule("lang_embed.weight", "params/embedding/embedding"),
        *llama.decoder_rules(config["llama"], "lang_decoder.model.", "language/"),
        Rule("lang_decoder.lm_head.weight", "params/head/kernel", "o i -> i o"),
    )


def projector_rules(config: Mapping[str, Any]) -> Iterator[Rule]:
    """The table of both projectors; `config` is CLIP's."""
    yield from linear("motion_proj.0", "motion_projector/in")
    yield from norm("motion_proj.1", "motion_projector/norm")
    yield from clip.block_rules(config, "projection.vis_layer.", "projector/block/")
    yield from linear("projection.projection.0", "projector/out")
    yield from norm("projection.projection.1", "projector/norm")
