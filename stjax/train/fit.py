"""The training loop."""

import itertools
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np
import tqdm

from stjax.data import pipeline
from stjax.train import evaluate as evaluation
from stjax.train import mesh as meshes
from stjax.train.checkpoint import Checkpoints
from stjax.train.config import differences
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.state import TrainState
from stjax.train.step import Stepper
from stjax.train.writer import Writer


class Stopped(Exception):
    """A signal asked the run to leave; its state is saved."""

    def __init__(self, step: int, signum: int):
        super().__init__(f"stopped at step {step} by {signal.Signals(signum).name}; "
                         "the same command goes on from there")
        self.signum = signum


class Session:
    """One experiment in one run directory: what every verb needs, made once. Use it in a `with`."""

    def __init__(self, experiment: Experiment, workdir: pathlib.Path):
        self.experiment, self.workdir = experiment, pathlib.Path(workdir)
        train, run = experiment.train, experiment.run
        self.mesh = meshes.make(run.mesh)
        meshes.check_batch(train.batch, self.mesh, train.accumulate)
        self.key = jax.random.key(train.seed)
        self.stepper = Stepper(
            experiment.task, experiment.optimizer, self.mesh, self.key, self.example,
            run.parallelism, train.accumulate, train.ema,
        )
        self.predict = evaluation.predictor(experiment.task, self.mesh)
        self.abstract_state = self.stepper.abstract_state
        if advice := meshes.advice(self.mesh, self.abstract_state):
            say(advice)
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", run.keep_last, experiment.task.headline
        )

    @property
    def example(self) -> dict[str, np.ndarray]:
        """A batch of one sample, to know shapes by."""
        record = self.experiment.data.train[0]
        return {name: np.asarray(value)[None] for name, value in record.items()}

    def training_data(self, workers: int = 0):
        """Endless training batches, an iterator whose position can be saved; to be closed."""
        train = self.experiment.train
        return pipeline(
            self.experiment.data.train, train.batch, shuffle=True, repeat=True, seed=train.seed,
            workers=workers,
        )

    def test_batches(self):
        """One pass over the test set, its last batch padded; to be closed."""
        ways = math.prod(self.mesh.shape[axis] for axis in ("data", "fsdp", "sequence"))
        batch = -(-self.experiment.run.eval_batch // ways) * ways
        return pipeline(self.experiment.data.test, batch)

    def evaluate_trivial(self) -> dict[str, evaluation.Report]:
        """Metrics of the trivial predictors, taught by the first sixteen training batches."""
        with closing(self.training_data()) as train, closing(self.test_batches()) as test:
            first = itertools.islice(train, 16)
            return evaluation.evaluate_trivial(self.experiment.task, first, test)

    def check_config(self, stored: dict[str, Any]) -> None:
        changed = differences(self.experiment.identity, stored)
        if changed:
            raise RunError(
                f"{self.workdir} holds a run of another config ({'; '.join(changed[:5])}); "
                "name another --workdir"
            )

    def restore(self, data: Any = None) -> TrainState | None:
        return self.checkpoints.restore_newest(
            self.abstract_state, data, self.check_config, say
        )

    def evaluate(self, state: TrainState) -> evaluation.Report:
        with closing(self.test_batches()) as batches:
            return evaluation.evaluate(
                self.experiment.task, self.predict, state.variables, batches
            )

    def save(self, state: TrainState, data: Any, metrics: evaluation.Report | None) -> None:
        headline = self.experiment.task.headline
        score = metrics and {headline: metrics[headline]}
        self.checkpoints.save(state, data, self.experiment.identity, score)

    def example_predictions(self, state: TrainState) -> tuple[dict[str, np.ndarray], Any]:
        """The first test batch, and what is predicted of it."""
        with closing(self.test_batches()) as batches:
            batch = next(batches)
        return batch, jax.device_get(self.predict(state.variables, batch))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        """Waits for a save that is under way, so that an error loses no checkpoint."""
        self.checkpoints.close()


def fit(session: Session) -> tuple[TrainState, evaluation.Report]:
    """Trains from the newest checkpoint, or from the start, to the last step.

    Returns:
        The last state and its metrics on the test set.

    Raises:
        RunError: a loss that is not finite (the step is named; the last good checkpoint stays),
            a full disk, a run directory of another config.
        Stopped: SIGTERM or SIGINT came; the state is saved.
    """
    experiment = session.experiment
    settings, steps = experiment.run, experiment.train.steps
    session.checkpoints.remove_unfinished()
    data = session.training_data(settings.workers)
    state = session.restore(data)
    if state is None:
        state = session.stepper.create()
    start = int(state.step)
    if start:
        say(f"continuing from the checkpoint of step {start} in {session.workdir}")
    train_step, metrics = session.stepper.step(), None
    state = session.stepper.place(state)
    with (
        closing(data),
        Writer(session.workdir, start, experiment.config, settings.wandb) as writer,
        _Signals() as signals,
        _progress(start, steps) as bar,
    ):
        logs = _Logs(writer, start)
        for step in range(start + 1, steps + 1):
            state, step_logs = train_step(state, _next(data, step))
            logs.add(step, step_logs)
            bar.update()
            last = step == steps
            evaluating = last or _due(step, settings.eval_every)
            saving = evaluating or signals.caught or _due(step, settings.checkpoint_every)
            if saving or _due(step, settings.log_every):
                bar.set_postfix_str(logs.flush())  # ends the run where a number is not finite
            metrics = None
            if evaluating:
                metrics = session.evaluate(session.stepper.whole(state))
                writer.scalars(step, "test", metrics)
            if saving:
                session.save(session.stepper.whole(state), data, metrics)
            if signals.caught and not last:
                session.checkpoints.wait()
                raise Stopped(step, signals.caught)
    session.checkpoints.wait()
    state = session.stepper.whole(state)
    return state, metrics or session.evaluate(state)


def _next(data: Iterator[Any], step: int) -> Any:
    try:
        return next(data)
    except (ValueError, OSError) as error:
        raise RunError(f"no data for step {step}: {error}") from error


class _Logs:
    """Holds the log of each step until it is due, so that steps need not wait for numbers.

    The host runs no more than two steps ahead of the devices: enough to keep them busy, and few
    enough that a signal is soon obeyed and no queue of batches builds up.
    """

    def __init__(self, writer: Writer, step: int):
        self._writer, self._held = writer, []
        self._since, self._clock = step, time.perf_counter()

    def add(self, step: int, logs: dict[str, jax.Array]) -> None:
        self._held.append((step, logs))
        jax.block_until_ready(self._held[-3:-2])

    def flush(self) -> str:
        """Writes the mean since the last time; raises RunError at a number that is not finite."""
        if not self._held:
            return ""
        held, self._held = jax.device_get(self._held), []
        for step, logs in held:
            bad = [name for name, value in logs.items() if not np.all(np.isfinite(value))]
            if bad:
                raise RunError(
                    f"step {step}: {', '.join(bad)} not finite; nothing after the last "
                    "checkpoint was saved"
                )
        step = held[-1][0]
        means = {name: float(np.mean([logs[name] for _, logs in held])) for name in held[0][1]}
        now = time.perf_counter()
        means["steps_per_second"] = (step - self._since) / (now - self._clock)
        self._since, self._clock = step, now
        self._writer.scalars(step, "train", means)
        return f"loss {means['loss']:.4g}"


class _Signals:
    """Catches SIGTERM and SIGINT, to be looked at between steps; a second one ends at once."""

    def __enter__(self):
        self.caught = 0
        self._old = {s: signal.signal(s, self._catch) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _catch(self, signum, frame):
        del frame
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signum


def say(line: str) -> None:
    """One line to the user, clear of a progress bar."""
    tqdm.tqdm.write(line, file=sys.stderr)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _progress(start: int, steps: int):
    terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        total=steps, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1,
        mininterval=0.2 if terminal else 15,
    )
