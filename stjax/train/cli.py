"""The command line that every system shares.

    python -m experiments.<slug> [train|evaluate|predict|plan|benchmark] [--scale=tiny]
                                 [--workdir=...] [--config.model.depth=4 ...]
"""

import argparse
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from stjax.train import config as configs
from stjax.train import cpu, hosts, report
from stjax.train.benchmark import benchmark
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.fit import Session, Stopped
from stjax.train.hosts import say
from stjax.train.plan import plan

SCALES = ("tiny", "small", "paper")
Build = Callable[[ConfigDict], Experiment]


def main(build: Build, module: ModuleType, argv: Sequence[str] | None = None) -> None:
    """Runs one verb of one system and exits: 0, or non-zero after one clear line.

    Args:
        build: config -> Experiment.
        module: the system's configs module, with `get_config(scale)` and `ablations()`. What else
            `get_config` takes are fields that decide which others there are.
        argv: arguments; the process's own by default.
    """
    slug = module.__name__.rpartition(".")[2]
    arguments, overrides = _parse(slug, module.__doc__ or "", argv)
    _set_up_jax(arguments.devices)
    if arguments.topology:
        jax.config.update("jax_platforms", "cpu")
    try:
        hosts.start(
            arguments.coordinator, arguments.processes, arguments.process,
            detect=arguments.distributed, wait=arguments.wait,
        )

        def experiment(fields):
            assignments = overrides | {name: str(value) for name, value in fields.items()}
            return build(configs.configured(module.get_config, arguments.scale, assignments))

        workdir = pathlib.Path(arguments.workdir or f"runs/{slug}-{arguments.scale}")
        if arguments.verb == "benchmark":
            arms = _arms(module.ablations(), arguments.arms)
            _benchmark({name: experiment(fields) for name, fields in arms.items()}, workdir)
        else:
            _VERBS[arguments.verb](experiment({}), workdir, arguments)
        hosts.finish()
    except Stopped as stop:
        say(str(stop))
        hosts.finish()
        sys.exit(128 + stop.signum)
    except (RunError, ValueError, OSError) as error:
        if os.environ.get("STJAX_TRACEBACK"):
            traceback.print_exc()
        hosts.fail(f"error: {error}")
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        # An error that nobody foresaw has to end the other processes as well. Where the runtime
        # failed another process may have died, and those that watch it say which.
        if isinstance(error, jax.errors.JaxRuntimeError):
            hosts.await_verdict()
        traceback.print_exc()
        hosts.fail(f"error: process {jax.process_index()}: {error!r}")


def train(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Trains to the end (from the newest checkpoint), evaluates, draws, reports."""
    del arguments
    report.train(experiment, workdir)


def evaluate(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Evaluates the last or the best checkpoint of a run."""
    started = time.perf_counter()
    with Session(experiment, workdir) as session:
        state = _stored_state(session, arguments.checkpoint)
        report.report(session, state, session.evaluate(state), started)


def predict(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Draws a checkpoint's predictions of the first test batch, and writes them as arrays."""
    with Session(experiment, workdir) as session:
        state = _stored_state(session, arguments.checkpoint)
        batch, predictions = session.example_predictions(state)
        if not hosts.first():
            return
        arrays = workdir / "predictions.npz"
        # A tree of predictions is written leaf by leaf: "predictions/score".
        named = traverse_util.flatten_dict({"predictions": predictions}, sep="/")
        np.savez(arrays, **batch, **named)
        for path in (arrays, *report.draw(session, state, batch, predictions)):
            print(path)


def show_plan(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Prints what a step will cost on the mesh asked for."""
    del workdir
    if hosts.first():
        print(plan(experiment, arguments.topology))


# Verbs of one experiment; "benchmark" is one of several, and "ablate" and "reproduce" will be.
_VERBS = {"train": train, "evaluate": evaluate, "predict": predict, "plan": show_plan}


def _arms(known: Mapping[str, Mapping[str, Any]], asked: str) -> dict[str, Mapping[str, Any]]:
    """The arms of a benchmark by name: the default and all ablations, or those asked for."""
    arms = {"default": {}, **known}
    names = asked.split(",") if asked else list(arms)
    if unknown := [name for name in names if name not in arms]:
        raise ValueError(f"--arms: {', '.join(unknown)} not among {', '.join(arms)}")
    return {name: arms[name] for name in names}


def _benchmark(arms: Mapping[str, Experiment], workdir: pathlib.Path) -> None:
    if jax.process_count() > 1:
        raise ValueError("benchmark: runs in one process; there are several")
    rows = benchmark(arms, workdir)
    print((workdir / "benchmark.md").read_text(), workdir / "benchmark.md", sep="")
    if failed := [row["arm"] for row in rows if "failed" in row]:
        raise RunError(f"arms that failed: {', '.join(failed)}")


def _parse(slug: str, doc: str, argv: Sequence[str] | None):
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{slug}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any field of the config: --config.section.field=value",
        allow_abbrev=False,
    )
    parser.add_argument("verb", nargs="?", default="train", choices=sorted((*_VERBS, "benchmark")))
    parser.add_argument("--scale", default="tiny", choices=SCALES)
    parser.add_argument("--workdir", help="run directory (runs/<slug>-<scale>)")
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"))
    parser.add_argument("--devices", type=int, default=0, help="simulate this many CPU devices")
    parser.add_argument("--arms", default="", help="of a benchmark: names of ablations, a,b,c")
    parser.add_argument("--topology", help="plan for chips not at hand: v5e:4x4, h200x8")
    many = parser.add_argument_group("many processes (Slurm and Open MPI need none of these)")
    many.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    many.add_argument("--processes", type=int, help="how many there are")
    many.add_argument("--process", type=int, help="which one this is, from 0")
    many.add_argument("--distributed", action="store_true", help="let JAX find the others (TPUs)")
    many.add_argument("--wait", type=int, default=300, help="seconds that the others have to come")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.topology and (arguments.verb != "plan" or arguments.devices):
        parser.error("--topology goes with the verb plan, and without --devices")
    if arguments.arms and arguments.verb != "benchmark":
        parser.error("--arms goes with the verb benchmark")
    overrides = {}
    for item in rest:
        field, separator, value = item.removeprefix("--config.").partition("=")
        if not (item.startswith("--config.") and separator):
            parser.error(f"{item!r} is no argument; a config field is --config.section.field=value")
        overrides[field] = value
    return arguments, overrides


def _set_up_jax(devices: int) -> None:
    cpu.quicken()
    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    if not jax.config.jax_compilation_cache_dir:
        # Compiling is most of a short run's wait, and the next run of the same step needs none.
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "stjax" / "xla"))


def _stored_state(session: Session, which: str):
    checkpoints = session.checkpoints
    if not checkpoints.steps:
        raise RunError(f"{checkpoints.folder} holds no checkpoint; train first")
    if which == "best" and checkpoints.best is not None:
        session.check_config(checkpoints.config(checkpoints.best))
        return checkpoints.restore(checkpoints.best, session.abstract_state)
    state = session.restore()
    if state is None:
        raise RunError(f"{checkpoints.folder} holds no checkpoint that can be read")
    return state
