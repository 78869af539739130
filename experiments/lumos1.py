"""Lumos-1: a language model writes video, frame after frame, each by masked diffusion.

The paper's claim: a Llama with positions dealt out over time, height and width, trained with the
same places hidden in all frames, generates video as well as diffusion models do.
`python -m experiments.lumos1` trains a tokenizer and then the model on moving digits, and goes on
with clips that it sees the first frames of.
"""

from configs import lumos1
from experiments._prediction import dtype
from stjax.data import Splits, load
from stjax.data.video_tokens import VideoTokens
from stjax.models.generation.cosmos_tokenizer import CosmosTokenizer
from stjax.models.generation.lumos1 import Lumos1, Vocabulary
from stjax.tasks.token_generation import TokenGeneration
from stjax.tasks.tokenizing import Tokenizing
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    data, tokenizing = config.data, None
    kind, _, folder = data.source.partition(":")
    if kind == "tokens":
        frames = data.context + data.horizon
        shape = {"height": data.height, "width": data.width, "text": data.text}
        splits = Splits(*(VideoTokens(folder, frames, **shape, training=x) for x in (True, False)))
    else:
        splits = load(
            **data, count_test=config.test.count_test, test_file=config.test.test_file or None
        )
        channels = splits.train.spec["video"].shape[-1]
        tokenizer = CosmosTokenizer(channels=channels, **config.tokenizer, dtype=dtype(config))
        tokenizing = Tokenizing(tokenizer, **config.tokenizing)
    task = TokenGeneration(
        model=Lumos1(Vocabulary(**config.vocabulary), **config.model, dtype=dtype(config)),
        tokenizing=tokenizing,
        context=data.context,
        horizon=data.horizon,
        **config.task,
    )
    return Experiment.from_config(config, task, splits)


if __name__ == "__main__":
    main(experiment, lumos1)
