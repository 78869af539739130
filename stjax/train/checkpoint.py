"""Checkpoints: the only module that speaks to orbax.

A checkpoint holds the state (parameters, averages, optimizer, step) and the config; the step says
how many batches were taken. All processes of a run write it together, each its own parts of the
arrays, and any other number of processes, on another mesh, may read it. It appears under its name
only when it is complete, so a process killed at any moment leaves the ones before it as they were.
"""

import errno
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from stjax.train import hosts
from stjax.train.errors import RunError
from stjax.train.state import TrainState

_COMPLETE = "_CHECKPOINT_METADATA"


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        folder: where they lie, a subfolder a step.
        keep_last: how many of the newest are kept (two at least, so that a damaged one has a
            predecessor).
        headline: metric by which the best one is kept besides; lower is better.
    """

    def __init__(self, folder: pathlib.Path, keep_last: int = 2, headline: str = "loss"):
        if keep_last < 2:
            raise ValueError(f"run.keep_last: {keep_last} is fewer than two")
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = pathlib.Path(folder).absolute()
        self._headline = headline
        best = preserve.BestN(
            get_metric_fn=lambda metrics: -metrics[headline],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preserve.AnyPreservationPolicy(
                    [preserve.LatestN(keep_last), best]
                ),
                best_fn=lambda metrics: -metrics[headline],
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def save(
        self,
        state: TrainState,
        config: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Begins to save in the background; errors of the save before are raised here.

        Raises:
            RunError: the disk is full or cannot be written; checkpoints before stay whole.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_as_dict(state)),
            config=ocp.args.JsonSave(config),
        )
        self._guarded(lambda: self._manager.save(step, args=args, metrics=metrics, force=True))

    def remove_unfinished(self) -> None:
        """Removes what a killed run was writing; only for the run that will write."""
        if hosts.first():
            for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path)
        hosts.gather("removed")

    def wait(self) -> None:
        """Returns when the last save is on disk; raises as `save` does."""
        self._guarded(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, and lets go of the folder; raises as `save` does."""
        self._guarded(self._manager.close)

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first."""
        complete = lambda step: (self.folder / str(step) / _COMPLETE).exists()
        return sorted(step for step in self._manager.all_steps(read=True) if complete(step))

    @property
    def best(self) -> int | None:
        """The step with the lowest headline metric among those that were evaluated."""
        scores = {step: self._manager.metrics(step) for step in self.steps}
        scores = {step: m[self._headline] for step, m in scores.items() if m}
        return min(scores, key=scores.get) if scores else None

    def config(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).config

    def restore_newest(
        self, abstract: TrainState, check: Callable[[dict[str, Any]], None], say=print
    ) -> TrainState | None:
        """The newest checkpoint that can be read.

        A damaged checkpoint is passed over for the one before it, saying so, and moved to
        `damaged/`, so that the run can save that step again.

        Args:
            abstract: shapes, dtypes and shardings wanted.
            check: called with the config of the checkpoint; raises if it is another run's.

        Returns:
            The state, or None where no checkpoint can be read.
        """
        for step in hosts.share(self.steps[::-1]):
            state, damage = None, ""
            try:
                check(self.config(step))
                state = self.restore(step, abstract)
            except RunError:
                raise
            except Exception as error:
                damage = str(error).strip().splitlines()[0][:200]
            damages = [damage for damage in hosts.gather(damage) if damage]
            if not damages:
                return state
            say(f"checkpoint {step} is damaged ({damages[0]}); trying the one before it")
            self._set_aside(step)
        return None

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """One checkpoint, laid out as `abstract` says.

        Raises:
            ValueError: an array of another shape or dtype than wanted.
        """
        stored = self._manager.item_metadata(step).state.tree
        wanted = _as_dict(abstract)
        _check_arrays(wanted, stored)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        restored = self._manager.restore(step, args=args)
        return TrainState(**restored.state)

    def _set_aside(self, step: int) -> None:
        aside = self.folder.parent / "damaged"
        if hosts.first():
            aside.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        hosts.gather("moved")
        self._manager.reload()

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            reason = _disk_trouble(error)
            if reason is None:
                raise
            kept = self.steps
            rest = f"that of step {kept[-1]} is intact" if kept else "none was saved before"
            raise RunError(
                f"cannot save a checkpoint in {self.folder}: {reason}; {rest}"
            ) from error


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def _check_arrays(wanted: Any, stored: Any) -> None:
    """Orbax casts a wrong dtype silently: compare names, shapes and dtypes ourselves."""
    describe = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(x.shape), str(x.dtype))
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    wanted, stored = describe(wanted), describe(stored)
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            raise ValueError(f"{name}: stored {stored.get(name)}, wanted {wanted.get(name)}")


def _disk_trouble(error: BaseException | None) -> str | None:
    """What is wrong with the disk, however deep orbax has wrapped it; None: nothing is."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return os.strerror(error.errno)
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            if os.strerror(code) in str(error):  # tensorstore has its own exceptions
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
