"""What the recipes of recognition share: their data section and their task section."""

from flax import linen as nn
from ml_collections import ConfigDict

from stjax.data import recognition
from stjax.tasks.classification import VideoClassification
from stjax.train.experiment import Experiment


def recognise(config: ConfigDict, model: nn.Module) -> Experiment:
    """An experiment on classified clips of `config.data`, tested as `config.test` says."""
    splits, names = recognition.load(**config.data, **config.test)
    task = VideoClassification(model, config.data.classes, names, **config.task)
    return Experiment.from_config(config, task, splits)
