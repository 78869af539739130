"""Deconstructing recurrence, attention and gating: exchangeable parts forecast chaos.

The paper's claims: neural gating and attention improve recurrent networks in most tasks, recurrence
harms transformers, and a recurrent highway network with both is the best forecaster of
high-dimensional chaos. `python -m experiments.deconstructing` trains that one on three-tier
Lorenz-96 of which the slow variables are seen;

    --config.data.system=kuramoto_sivashinsky --config.task.lyapunov=0.043
    --config.data.system=table --config.data.path=ETTh1.csv --config.task.period=24

are another system, and a measured series. `python -m benchmarks.chaos` compares all its parts.
"""

from ml_collections import ConfigDict

from configs import deconstructing
from experiments._prediction import dtype
from stjax.data import Splits, chaos
from stjax.models.series.hybrid import Hybrid
from stjax.tasks.dynamics import DynamicsForecast
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config: ConfigDict) -> Experiment:
    data = chaos.load(**config.data)
    task = DynamicsForecast(
        Hybrid(**config.model, dtype=dtype(config)),
        context=config.data.context,
        horizon=config.data.horizon,
        mean=data.mean,
        std=data.std,
        step_std=data.step_std,
        interval=data.interval,
        **config.task,
    )
    return Experiment.from_config(config, task, Splits(data.train, data.test))


if __name__ == "__main__":
    main(experiment, deconstructing)
