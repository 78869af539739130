"""The training loop."""

import itertools
import math
import os
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
from jax.experimental import multihost_utils

import stjax
from stjax.train import evaluate as evaluation
from stjax.train import hosts
from stjax.train import mesh as meshes
from stjax.train.checkpoint import Checkpoints
from stjax.train.config import differences
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.feed import Feed
from stjax.train.hosts import say
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
    """One experiment in one run directory: what every verb needs, made once. Use it in a `with`.

    Of many processes each makes one, alike.

    Raises:
        ValueError: a mesh or batch that cannot be.
        RunError: processes that disagree on the config, the data or the versions, or do not see
            the same run directory.
    """

    def __init__(self, experiment: Experiment, workdir: pathlib.Path):
        self.experiment, self.workdir = experiment, pathlib.Path(workdir)
        train, run = experiment.train, experiment.run
        records = [len(experiment.data.train), len(experiment.data.test)]
        versions = {"stjax": stjax.__version__, "jax": jax.__version__}
        hosts.agree({**experiment.config, "records": records, "versions": versions})
        self.mesh = meshes.make(run.mesh)
        meshes.check_batch(train.batch, self.mesh, train.accumulate)
        self.key = jax.random.key(train.seed)
        self.stepper = Stepper(
            experiment.task, experiment.optimizer, self.mesh, self.key, self.example,
            run.parallelism, train.accumulate, train.ema,
        )
        self.predict = evaluation.predictor(experiment.task)
        self.abstract_state = self.stepper.abstract_state
        if advice := meshes.advice(self.mesh, self.abstract_state):
            say(advice)
        hosts.seen_by_all(self.workdir)
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", run.keep_last, experiment.task.headline
        )

    @property
    def example(self) -> dict[str, np.ndarray]:
        """A batch of one sample, to know shapes by."""
        record = self.experiment.data.train[0]
        return {name: np.asarray(value)[None] for name, value in record.items()}

    def training_data(self, start: int = 0, workers: int = 0) -> Feed:
        """Endless training batches, from that of step `start` on; to be closed."""
        train = self.experiment.train
        return Feed(
            self.experiment.data.train, train.batch, self.stepper.batch_sharding,
            shuffle=True, repeat=True, seed=train.seed, start=start, workers=workers,
        )

    def test_batches(self) -> Feed:
        """One pass over the test set, its last batch padded; to be closed."""
        ways = math.prod(self.mesh.shape[axis] for axis in ("data", "fsdp", "sequence"))
        batch = -(-self.experiment.run.eval_batch // ways) * ways
        sharding = meshes.evaluation_sharding(self.mesh)
        return Feed(self.experiment.data.test, batch, sharding)

    def evaluate_trivial(self) -> dict[str, evaluation.Report]:
        """Metrics of the trivial predictors, taught by the first sixteen training batches."""
        with closing(self.training_data()) as train, closing(self.test_batches()) as test:
            first = itertools.islice(train, 16)
            return evaluation.evaluate_trivial(
                self.experiment.task, first, test, meshes.whole(self.mesh)
            )

    def check_config(self, stored: dict[str, Any]) -> None:
        changed = differences(self.experiment.identity, stored)
        if changed:
            raise RunError(
                f"{self.workdir} holds a run of another config ({'; '.join(changed[:5])}); "
                "name another --workdir"
            )

    def restore(self) -> TrainState | None:
        return self.checkpoints.restore_newest(self.abstract_state, self.check_config, say)

    def evaluate(self, state: TrainState) -> evaluation.Report:
        with closing(self.test_batches()) as batches:
            return evaluation.evaluate(
                self.experiment.task, self.predict, state.variables, batches,
                meshes.whole(self.mesh),
            )

    def save(self, state: TrainState, metrics: evaluation.Report | None) -> None:
        headline = self.experiment.task.headline
        score = metrics and {headline: metrics[headline]}
        self.checkpoints.save(state, self.experiment.identity, score)

    def example_predictions(self, state: TrainState) -> tuple[dict[str, np.ndarray], Any]:
        """The first test batch, and what is predicted of it."""
        with closing(self.test_batches()) as batches:
            batch = next(batches)
        predictions = self.predict(state.variables, batch)
        gather = jax.jit(lambda x: x, out_shardings=meshes.whole(self.mesh))
        return jax.device_get(gather((batch, predictions)))

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
    state = session.restore()
    if state is None:
        state = session.stepper.create()
    start = int(state.step)
    if start:
        say(f"continuing from the checkpoint of step {start} in {session.workdir}")
    train_step, metrics = session.stepper.step(), None
    state = session.stepper.place(state)
    with (
        closing(session.training_data(start, settings.workers)) as data,
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
            leaving = signals.caught_by(step)
            saving = evaluating or leaving or _due(step, settings.checkpoint_every)
            if saving or _due(step, settings.log_every):
                bar.set_postfix_str(logs.flush())  # ends the run where a number is not finite
            metrics = None
            if evaluating:
                metrics = session.evaluate(session.stepper.whole(state))
                writer.scalars(step, "test", metrics)
            if saving:
                session.save(session.stepper.whole(state), metrics)
            if leaving and not last:
                session.checkpoints.wait()
                raise Stopped(step, leaving)
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
        losses = [name for name in means if name.rpartition("/")[2] == "loss"]
        return ", ".join(f"{name} {means[name]:.4g}" for name in losses)


class _Signals:
    """SIGTERM and SIGINT, looked at between steps; a second one ends at once.

    What one of many processes gets, JAX passes on to all, and says after which step they leave. It
    listens to SIGTERM, so that SIGINT becomes one.
    """

    def __enter__(self):
        self._caught = 0
        catch = {signal.SIGTERM: self._catch, signal.SIGINT: self._catch}
        if jax.process_count() > 1:
            catch = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        self._old = {signum: signal.signal(signum, handler) for signum, handler in catch.items()}
        return self

    def caught_by(self, step: int) -> int:
        """The signal that asks to leave after this step; 0: none."""
        if jax.process_count() > 1:
            leaving = multihost_utils.reached_preemption_sync_point(step)
            return signal.SIGTERM if leaving else 0
        return self._caught

    def __exit__(self, *_):
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _catch(self, signum, frame):
        del frame
        if self._caught:
            raise KeyboardInterrupt
        self._caught = signum


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _progress(start: int, steps: int):
    terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        total=steps, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1,
        mininterval=0.2 if terminal else 15, disable=not hosts.first(),
    )
