"""What the recipes of video prediction share: their data section and their task section."""

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from stjax import data
from stjax.tasks.frame_prediction import FramePrediction
from stjax.train.experiment import Experiment


def dtype(config: ConfigDict) -> jnp.dtype:
    """The type that the model computes in; parameters stay float32."""
    return jnp.dtype(config.train.precision)


def frame_prediction(config: ConfigDict, model: nn.Module, sampling=None) -> Experiment:
    """An experiment on clips of `config.data` with the losses and range of `config.task`."""
    splits = data.load(
        **config.data,
        test_horizon=config.test.horizon or None,
        count_test=config.test.count_test,
        test_file=config.test.test_file or None,
    )
    task = FramePrediction(
        model=model,
        context=config.data.context,
        horizon=config.data.horizon,
        test_horizon=config.test.horizon or config.data.horizon,
        sampling=sampling,
        **config.task,
    )
    return Experiment.from_config(config, task, splits)
