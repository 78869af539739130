"""GDKVM: the left ventricle in echocardiograms, by a matrix memory with gated delta rule.

The paper's claim: a memory that erases what it holds under a key, and forgets, segments a beating
heart in noise better than one that only adds up, or none. `python -m experiments.gdkvm` learns it
of made hearts, from the masks of the first and the last frame;

    --config.data.source=camus:folder
    --config.data.source=echonet:folder

are recorded ones.
"""

import functools

from configs import gdkvm
from experiments._prediction import dtype
from stjax.data import echo
from stjax.layers.resnet import ResNet
from stjax.models.dense.gdkvm import GDKVM
from stjax.tasks.segmentation import VideoSegmentation
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    encoders = {
        name: functools.partial(ResNet, **config.model[name])
        for name in ("image_encoder", "mask_encoder")
    }
    model = GDKVM(**{**config.model, **encoders}, dtype=dtype(config))
    task = VideoSegmentation(model, **config.task)
    return Experiment.from_config(config, task, echo.load(**config.data, **config.test))


if __name__ == "__main__":
    main(experiment, gdkvm)
