"""STTN: spatial-temporal transformers forecast traffic.

The paper's claim: attention that draws its own directed graph of the sensors at every step, beside
the road network's, and attention over all steps at once forecast better than convolutions on a
fixed graph, most so far ahead. `python -m experiments.sttn` trains it on a made ring road whose
jams change direction;

    --config.data.source=pemsd7 --config.data.path=folder --config.data.nodes=25
    --config.data.source=table --config.data.path=speed.csv --config.data.adjacency=adj.csv

are measured traffic.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import sttn
from stjax.data import Splits, traffic
from stjax.models.series.sttn import STTN, VARIANTS, weight_penalty
from stjax.ops.graph import gaussian_weights
from stjax.tasks.forecasting import SeriesForecast
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config: ConfigDict) -> Experiment:
    roads = traffic.load(**config.data)
    weights = gaussian_weights(roads.adjacency) if roads.distances else roads.adjacency
    fields = {name: value for name, value in config.model.items() if name != "variant"}
    if config.model.variant not in VARIANTS:
        raise ValueError(f"model.variant: {config.model.variant!r} is none of {list(VARIANTS)}")
    model = STTN(
        weights,
        **{**fields, **VARIANTS[config.model.variant]},
        horizon=config.data.horizon,
        dtype=jnp.dtype(config.train.precision),
    )
    known, l2 = roads.statistics, config.task.l2
    task = SeriesForecast(
        model=model,
        context=config.data.context,
        horizon=config.data.horizon,
        mean=known.mean,
        std=known.std,
        profile=known.profile,
        weekly=known.weekly,
        minutes=config.data.minutes,
        loss_name=config.task.loss_name,
        penalty=(lambda params: l2 * weight_penalty(params)) if l2 else None,
    )
    if config.test.split not in ("test", "validation"):
        raise ValueError(f"test.split: {config.test.split!r} is neither 'test' nor 'validation'")
    splits = Splits(roads.train, getattr(roads, config.test.split))
    return Experiment.from_config(config, task, splits)


if __name__ == "__main__":
    main(experiment, sttn)
