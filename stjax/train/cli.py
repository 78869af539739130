"""The command line that every system shares.

    python -m experiments.<slug> [train|evaluate|predict|plan] [--scale=tiny] [--workdir=...]
                                 [--config.model.depth=4 ...]
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType

import jax
import jaxlib
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from stjax.train import config as configs
from stjax.train import cpu, hosts
from stjax.train import evaluate as evaluation
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.fit import Session, Stopped, fit
from stjax.train.hosts import say
from stjax.train.plan import parameters, plan
from stjax.train.state import TrainState
from stjax.train.writer import Writer

SCALES = ("tiny", "small", "paper")
Build = Callable[[ConfigDict], Experiment]


def main(build: Build, module: ModuleType, argv: Sequence[str] | None = None) -> None:
    """Runs one verb of one system and exits: 0, or non-zero after one clear line.

    Args:
        build: config -> Experiment.
        module: the system's configs module, with `get_config(scale)`.
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
        config = configs.override(module.get_config(arguments.scale), overrides)
        workdir = pathlib.Path(arguments.workdir or f"runs/{slug}-{arguments.scale}")
        _VERBS[arguments.verb](build(config), workdir, arguments)
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
    started = time.perf_counter()
    with Session(experiment, workdir) as session:
        _report(session, *fit(session), started)


def evaluate(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Evaluates the last or the best checkpoint of a run."""
    started = time.perf_counter()
    with Session(experiment, workdir) as session:
        state = _stored_state(session, arguments.checkpoint)
        _report(session, state, session.evaluate(state), started)


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
        for path in (arrays, *_draw(session, state, batch, predictions)):
            print(path)


def show_plan(experiment: Experiment, workdir: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Prints what a step will cost on the mesh asked for."""
    del workdir
    if hosts.first():
        print(plan(experiment, arguments.topology))


# "ablate" and "reproduce" belong here too; they need more than one experiment.
_VERBS = {"train": train, "evaluate": evaluate, "predict": predict, "plan": show_plan}


def _parse(slug: str, doc: str, argv: Sequence[str] | None):
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{slug}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any field of the config: --config.section.field=value",
        allow_abbrev=False,
    )
    parser.add_argument("verb", nargs="?", default="train", choices=sorted(_VERBS))
    parser.add_argument("--scale", default="tiny", choices=SCALES)
    parser.add_argument("--workdir", help="run directory (runs/<slug>-<scale>)")
    parser.add_argument("--checkpoint", default="last", choices=("last", "best"))
    parser.add_argument("--devices", type=int, default=0, help="simulate this many CPU devices")
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


def _draw(session: Session, state: TrainState, batch, predictions) -> list[pathlib.Path]:
    experiment, step = session.experiment, int(state.step)
    with Writer(session.workdir, step, experiment.config) as writer:
        return writer.pictures(step, experiment.task.render(predictions, batch))


def _report(
    session: Session, state: TrainState, metrics: evaluation.Report, started: float
) -> None:
    """Writes report.json and pictures; prints what was reached and where to look."""
    experiment = session.experiment
    headline = experiment.task.headline
    trivial = session.evaluate_trivial()
    best = min(trivial, key=lambda name: trivial[name][headline])
    ratio = metrics[headline] / trivial[best][headline]
    pictures = _draw(session, state, *session.example_predictions(state))
    if not hosts.first():
        return
    report = {
        "step": int(state.step),
        "parameters": parameters(state),
        "seconds": round(time.perf_counter() - started, 1),
        "headline": headline,
        "metrics": metrics,
        "trivial": trivial,
        "best_trivial": best,
        "ratio_to_best_trivial": ratio,
        "pictures": [str(path.relative_to(session.workdir)) for path in pictures],
        "devices": [device.device_kind for device in session.mesh.devices.flat],
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
        "config": experiment.config,
    }
    path = session.workdir / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    for name, value in sorted(metrics.items()):
        if not isinstance(value, list):
            print(f"{name:<14} {value:.4g}")
    for name, values in sorted(trivial.items(), key=lambda item: item[1][headline]):
        print(f"{headline} of {name}: {values[headline]:.4g}")
    print(
        f"{headline} {metrics[headline]:.4g} at step {int(state.step)} is {ratio:.2f} of the best "
        f"trivial predictor's ({best}); see {path} and {session.workdir / 'media'}"
    )
