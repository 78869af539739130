"""What the recipes of video prediction share: their data section and their task section."""

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from stjax import data
from stjax.data.weather import Weather
from stjax.tasks.frame_prediction import FramePrediction
from stjax.tasks.weather import WeatherPrediction
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
    config = in_steps(config, len(splits.train))
    kind, units = FramePrediction, {}
    if isinstance(splits.test, Weather):
        kind, test = WeatherPrediction, splits.test
        units = {"mean": test.mean, "std": test.std, "variables": test.variables}
    task = kind(
        model=model,
        context=config.data.context,
        horizon=config.data.horizon,
        test_horizon=config.test.horizon or config.data.horizon,
        sampling=sampling,
        **config.task,
        **units,
    )
    return Experiment.from_config(config, task, splits)


def in_steps(config: ConfigDict, clips: int) -> ConfigDict:
    """The config with `train.steps` for its epochs, where it counts in epochs.

    Args:
        clips: how many the training set has; an epoch has `config.epochs.clips`, or all where that
            is 0. Its last batch is dropped where it is not whole.
    """
    if "epochs" not in config or not config.epochs.count:
        return config
    config = config.copy_and_resolve_references()
    steps = (config.epochs.clips or clips) // config.train.batch
    if not steps:
        raise ValueError(f"train.batch: {config.train.batch} of {clips} training clips")
    config.train.steps = config.epochs.count * steps
    if "steps_per_epoch" in config.optimizer.schedule_args:
        config.optimizer.schedule_args.steps_per_epoch = steps
    return config
