"""A system small enough for tests of the engine: a two-layer network on made-up points."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from stjax.data import Splits
from stjax.layers.partitioning import named
from stjax.tasks.base import Aux
from stjax.train.cli import main
from stjax.train.experiment import Experiment


class Network(nn.Module):
    width: int = 64

    @nn.compact
    def __call__(self, x):
        kernel = nn.linear.default_kernel_init
        hidden = nn.Dense(self.width, kernel_init=named(kernel, "embed", "mlp"))(x)
        return nn.Dense(1, kernel_init=named(kernel, "mlp", None))(nn.tanh(hidden))


@dataclasses.dataclass(frozen=True)
class Points:
    """Record i is a function of i alone."""

    count: int
    broken: int = -1

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = np.random.default_rng(index).standard_normal(64).astype(np.float32)
        if index == self.broken:
            raise ValueError(f"points.bin: record {index} is truncated")
        return {"x": x, "y": np.tanh(x.sum(keepdims=True) / 8)}


@dataclasses.dataclass(frozen=True)
class Regression:
    model: nn.Module
    explode_at: int = -1

    headline = "error"

    def init(self, key, batch):
        return self.model.init(key, batch["x"])

    def loss(self, variables, batch, key, step):
        del key
        error = jnp.square(self.model.apply(variables, batch["x"]) - batch["y"]).mean()
        return jnp.where(step + 1 == self.explode_at, jnp.nan, error), Aux({}, {})

    def predict(self, variables, batch, key):
        del key
        return self.model.apply(variables, batch["x"])

    def metrics(self, predictions, batch):
        error = jnp.square(predictions - batch["y"])[:, 0]
        return {"error": (error, batch.get("weight", jnp.ones(len(error))))}

    def render(self, predictions, batch):
        del batch
        shade = np.uint8(127 + 100 * np.tanh(np.asarray(predictions[:8])))
        return {"shades": np.broadcast_to(shade[:, :, None], (len(shade), 1, 3))}

    def summary(self, batch):
        return batch["y"].mean(0)

    def trivial(self, summary, batch):
        return {"mean": jnp.broadcast_to(summary, batch["y"].shape)}


FACTS = {"family": "toy", "parameters": 64 * 64 + 64 + 64 + 1}


def get_config(scale="tiny", width=64):
    del scale
    return ConfigDict(
        {
            "model": {"width": int(width)},
            "task": {"explode_at": -1},
            "data": {"count": 256, "broken": -1},
            "optimizer": {"peak": 5e-3, "schedule_args": {"warmup": 2}},
            "train": {"batch": 16, "steps": 12, "seed": 0, "accumulate": 1, "ema": 0.0},
            "run": {
                "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1},
                "parallelism": "jit", "log_every": 4, "eval_every": 0, "checkpoint_every": 4,
                "eval_batch": 16, "keep_last": 2, "workers": 0, "wandb": "",
            },
        }
    )


def experiment(config) -> Experiment:
    task = Regression(Network(**config.model), **config.task)
    # 23 test points make the last batch a ragged one.
    data = Splits(Points(**config.data), Points(23))
    return Experiment.from_config(config, task, data)


def ablations():
    return {"narrow": {"model.width": 8}, "broken": {"data.broken": 7}}


CONFIGS = SimpleNamespace(
    __name__="tests.toy", __doc__=__doc__, get_config=get_config, ablations=ablations
)


def trained_params(session):
    """Parameters of the newest checkpoint, as numpy."""
    return jax.device_get(session.restore().params)


if __name__ == "__main__":
    main(experiment, CONFIGS)
