"""ConvLSTM as OpenSTL trains it: stacked convolutional LSTMs with scheduled sampling.

The claim of the benchmark: recurrent models predict well and cost much, which recurrent-free ones
(see simvpv2) no longer pay. `python -m experiments.convlstm` trains it on moving digits.
"""

import functools

from configs import convlstm
from experiments._prediction import dtype, frame_prediction
from stjax.models.prediction.convlstm import ConvLSTM
from stjax.processes import scheduled_sampling
from stjax.train.cli import main
from stjax.train.experiment import Experiment

SAMPLING = {
    "scheduled": scheduled_sampling.scheduled,
    "reverse_scheduled": scheduled_sampling.reverse_scheduled,
}


def sampling(name, **options):
    """When training inputs are the model's own outputs; None: never ("none")."""
    if name == "none":
        return None
    if name not in SAMPLING:
        raise ValueError(f"sampling.name: {name!r} is none of {['none', *SAMPLING]}")
    rates = functools.partial(SAMPLING[name], **options)
    return functools.partial(scheduled_sampling.mask, rates=rates)


def experiment(config) -> Experiment:
    model = ConvLSTM(**config.model, dtype=dtype(config))
    return frame_prediction(config, model, sampling(**config.sampling))


if __name__ == "__main__":
    main(experiment, convlstm)
