"""An experiment: a task, its data, and how long and on what it runs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from stjax.tasks.base import Task, phases
from stjax.train.optim import optimizer
from stjax.train.state import Optimizers


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What changes the result of training.

    Attributes:
        batch: samples a step, over all devices.
        steps: updates in all.
        seed: of parameters, data order and every draw.
        accumulate: parts that a batch is cut into, one after the other on the device.
        ema: decay of the parameters' moving average that is evaluated; 0 for none.
        precision: dtype that the model computes in; parameters stay float32.
    """

    batch: int
    steps: int
    seed: int = 0
    accumulate: int = 1
    ema: float = 0.0
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What does not change the result: devices, and how often things are written.

    Attributes:
        mesh: axis -> size, -1 for the devices that are left (see `stjax.train.mesh`).
        parallelism: "jit" or "pmap".
        log_every, eval_every, checkpoint_every: in steps; 0 for only at the end.
        eval_batch: samples an evaluation step.
        keep_last: newest checkpoints kept, besides the best.
        workers: processes that prepare training data; 0 prepares them in this one.
        wandb: project at Weights & Biases; empty for none.
    """

    mesh: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": -1})
    parallelism: str = "jit"
    log_every: int = 50
    eval_every: int = 0
    checkpoint_every: int = 0
    eval_batch: int = 64
    keep_last: int = 2
    workers: int = 0
    wandb: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `experiments/<slug>.py` builds from a config.

    Attributes:
        task: what is learned; knows the model.
        data: `stjax.data.Splits`, random-access sources `train` and `test`.
        optimizer: an optax transformation over `train.steps` steps, or one for each of the task's
            phases by name.
        train, run: settings that do and do not change the result.
        config: the whole config as plain nested dicts, kept with every checkpoint.
    """

    task: Task
    data: Any
    optimizer: Optimizers
    train: TrainSettings
    run: RunSettings
    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: ConfigDict, task: Task, data: Any) -> "Experiment":
        """Reads the sections that every config has: optimizer, train, run."""
        train = TrainSettings(**config.train)
        return cls(
            task=task,
            data=data,
            optimizer=_optimizers(config.optimizer, task, train.steps),
            train=train,
            run=RunSettings(**config.run),
            config=json.loads(config.to_json_best_effort()),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the config that a checkpoint must share to be continued."""
        return {name: part for name, part in self.config.items() if name not in ("run", "test")}


def _optimizers(section: ConfigDict, task: Task, steps: int) -> Optimizers:
    """One, or one for each of the task's phases where the section is cut by their names.

    A phase that an arm of a study does without may keep its part.
    """
    names = {phase.name for phase in phases(task)}
    if not names & set(section):
        return optimizer(**section, steps=steps)
    if not names <= set(section):
        raise ValueError(f"optimizer: sections {sorted(section)} for phases {sorted(names)}")
    return {name: optimizer(**section[name], steps=steps) for name in names}
