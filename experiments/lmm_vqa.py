"""LMM-VQA: a language model is asked how good a video is, and told what moves.

The paper's claim: tokens of motion beside those of key frames let a language model judge videos
better, and on sets that it was not trained on. `python -m experiments.lmm_vqa` trains a small one
from nothing on made videos, some of which are bad in time alone;
`--config.model.branches="('spatial',)"` leaves motion out.
"""

import functools

from configs import lmm_vqa
from experiments._prediction import dtype
from stjax.data import quality
from stjax.layers.lora import Lora
from stjax.models.backbones.clip import ClipVision
from stjax.models.backbones.llama import Decoder, attend
from stjax.models.backbones.slowfast import SlowFast
from stjax.models.language.lmm_vqa import LmmVqa, mmca
from stjax.tasks.quality import VideoQuality
from stjax.train.cli import main
from stjax.train.experiment import Experiment

# Kernels of the decoder: paths, axes of layers, axes that are summed over.
_TARGETS = {
    "attention/(query|key|value)/kernel": (1, 1),
    "attention/out/kernel": (1, 2),
    "feed_forward/(in|gate|out)/kernel": (1, 1),
}


def experiment(config) -> Experiment:
    splits, tokenizer, cuts = quality.load(**config.data)
    options, mixing = {"dtype": dtype(config)}, dict(config.model)
    chosen, leak = mixing.pop("mmca"), mixing.pop("leak")
    mixer = functools.partial(mmca, leak=leak) if chosen else attend
    vocabulary = mixing.pop("vocabulary") or tokenizer.size
    if vocabulary < tokenizer.size:
        raise ValueError(f"model.vocabulary: {vocabulary}, and {tokenizer.size} tokens")
    model = LmmVqa(
        clip=ClipVision(size=config.data.size, **config.clip, **options),
        slowfast=SlowFast(**config.slowfast, **options),
        language=Decoder(attend=mixer, **config.language, **options),
        vocabulary=vocabulary,
        image_token=tokenizer.image,
        pad_token=tokenizer.pad,
        **mixing,
        **options,
    )
    lora = Lora(**config.lora, targets=_TARGETS) if config.lora.rank else None
    return Experiment.from_config(config, VideoQuality(model, tokenizer, cuts, lora), splits)


if __name__ == "__main__":
    main(experiment, lmm_vqa)
