"""ConvS5: convolutional state spaces for long-range video prediction, and its baselines.

The paper's claim: with equal data ConvS5 predicts long videos better than ConvLSTM and a
one-token-per-frame transformer, trains faster than the one and samples faster than the other.
`python -m experiments.convs5` trains it on moving digits; `--config.model.mixer` swaps what mixes
over time.
"""

import functools

from flax import linen as nn
from ml_collections import ConfigDict

from configs import convs5
from experiments._prediction import dtype, frame_prediction
from stjax.layers.causal_transformer import CausalTransformer
from stjax.layers.conv_lstm import ConvLSTM
from stjax.layers.convs5 import ConvS5
from stjax.layers.s5 import S5
from stjax.layers.sequence import sequence_layers
from stjax.models.prediction.convs5 import MapSequence, PixelPredictor, VectorSequence
from stjax.train.cli import main
from stjax.train.experiment import Experiment

MIXERS = ("convs5", "convlstm", "s5", "transformer")


def core(config: ConfigDict):
    """Factory of what mixes over time, by `config.model.mixer`."""
    model, options = config.model, {"dtype": dtype(config)}
    layers = lambda mixer: sequence_layers(
        mixer, model.layers, norm=model.norm, skip=model.skip, dropout=model.dropout,
        remat=model.remat, **options,
    )
    on_maps = lambda mixer: functools.partial(MapSequence, model.features, layers(mixer), **options)
    on_vectors = functools.partial(
        VectorSequence, out=model.encoder_depths[-1], **options
    )
    if model.mixer == "convs5":
        mixer = functools.partial(
            ConvS5, features=model.features, activation=getattr(nn, model.activation),
            groups=model.groups, **config.convs5, **options,
        )
        return on_maps(mixer)
    if model.mixer == "convlstm":
        return on_maps(functools.partial(ConvLSTM, model.features, **config.convlstm, **options))
    if model.mixer == "s5":
        mixer = functools.partial(S5, features=model.features, **config.s5, **options)
        return functools.partial(on_vectors, model.features, sequence=layers(mixer))
    if model.mixer == "transformer":
        mixer = functools.partial(
            CausalTransformer, depth=model.layers, remat=model.remat, **config.transformer,
            **options,
        )
        return functools.partial(
            on_vectors, config.transformer.features, sequence=mixer, start=True
        )
    raise ValueError(f"model.mixer: {model.mixer!r} is none of {MIXERS}")


def experiment(config: ConfigDict) -> Experiment:
    model = PixelPredictor(
        core=core(config),
        encoder_depths=config.model.encoder_depths,
        decoder_depths=config.model.decoder_depths,
        groups=config.model.groups,
        remat=config.model.remat,
        dtype=dtype(config),
    )
    return frame_prediction(config, model)


if __name__ == "__main__":
    main(experiment, convs5)
