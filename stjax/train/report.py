"""What is left of a run when it is over: report.json, pictures, and lines that say how it went."""

import json
import pathlib
import platform
import time
from typing import Any

import jax
import jaxlib

from stjax.train import evaluate as evaluation
from stjax.train import hosts
from stjax.train.experiment import Experiment
from stjax.train.fit import Session, fit
from stjax.train.plan import parameters
from stjax.train.state import TrainState
from stjax.train.writer import Writer

NAME = "report.json"


def train(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Trains to the end (from the newest checkpoint), evaluates, draws, reports."""
    started = time.perf_counter()
    with Session(experiment, workdir) as session:
        report(session, *fit(session), started)


def finished(experiment: Experiment, workdir: pathlib.Path) -> dict[str, Any] | None:
    """The report of a run of this very config that was trained to its end; None: there is none."""
    path = workdir / NAME
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    same = found["config"] == json.loads(json.dumps(experiment.config))
    return found if same and found["step"] == experiment.train.steps else None


def report(
    session: Session, state: TrainState, metrics: evaluation.Report, started: float
) -> None:
    """Writes report.json and pictures; prints what was reached and where to look."""
    experiment = session.experiment
    headline = experiment.task.headline
    trivial = session.evaluate_trivial()
    best = min(trivial, key=lambda name: trivial[name][headline])
    ratio = metrics[headline] / trivial[best][headline]
    pictures = draw(session, state, *session.example_predictions(state))
    if not hosts.first():
        return
    contents = {
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
    path = session.workdir / NAME
    path.write_text(json.dumps(contents, indent=2) + "\n")
    for name, value in sorted(metrics.items()):
        if not isinstance(value, list):
            print(f"{name:<14} {value:.4g}")
    for name, values in sorted(trivial.items(), key=lambda item: item[1][headline]):
        print(f"{headline} of {name}: {values[headline]:.4g}")
    print(
        f"{headline} {metrics[headline]:.4g} at step {int(state.step)} is {ratio:.2f} of the best "
        f"trivial predictor's ({best}); see {path} and {session.workdir / 'media'}"
    )


def draw(session: Session, state: TrainState, batch: Any, predictions: Any) -> list[pathlib.Path]:
    """Writes the task's pictures of these predictions."""
    experiment, step = session.experiment, int(state.step)
    with Writer(session.workdir, step, experiment.config) as writer:
        return writer.pictures(step, experiment.task.render(predictions, batch))
