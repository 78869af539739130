"""Several arms of a system, each trained once: one table, one plot of quality against cost."""

import csv
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np

from stjax.train import flops, hosts, report
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.fit import Session
from stjax.train.plan import plan
from stjax.viz import curves, frames

Row = dict[str, Any]


def benchmark(arms: Mapping[str, Experiment], workdir: pathlib.Path) -> list[Row]:
    """Trains every arm in a folder of its own below `workdir` and measures what it costs.

    Arms that were finished before, with the same config, are not run again; one that was stopped
    goes on. An arm that fails is said to have failed, and does not keep the others from running.

    Args:
        arms: name -> experiment. Their tasks have one headline metric.
        workdir: where `benchmark.md`, `.csv`, `.json` and `.png` are written, after every arm.

    Returns:
        A row an arm, the best first: parameters; multiply-adds of predicting one clip, in millions;
        milliseconds of a training step and of predicting one clip; MiB that a step needs, as the
        compiler plans it; every metric of the test set; the headline over that of the best trivial
        predictor; seconds of the whole run.
    """
    rows = []
    for name, experiment in arms.items():
        hosts.say(f"{name} ({len(rows) + 1} of {len(arms)})")
        try:
            rows.append({"arm": name, **_run(experiment, workdir / name)})
        except (RunError, ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            hosts.say(f"{name} failed: {error}")
            rows.append({"arm": name, "failed": str(error).partition("\n")[0]})
        jax.clear_caches()
        headline = experiment.task.headline
        rows.sort(key=lambda row: row.get(headline, np.inf))
        _write(rows, headline, workdir)
    return rows


def _run(experiment: Experiment, workdir: pathlib.Path) -> Row:
    """Trains where that was not done, measures where that was not done: the arm's row."""
    found = report.finished(experiment, workdir)
    if found is None:
        report.train(experiment, workdir)
        found = report.finished(experiment, workdir)
        (workdir / "costs.json").unlink(missing_ok=True)
    costs = workdir / "costs.json"
    if not costs.exists():
        costs.write_text(json.dumps(_costs(experiment, workdir)) + "\n")
    metrics = {name: x for name, x in found["metrics"].items() if not isinstance(x, list)}
    return {
        "parameters": found["parameters"], **json.loads(costs.read_text()), **metrics,
        "of_best_trivial": found["ratio_to_best_trivial"], "seconds": found["seconds"],
    }


def _costs(experiment: Experiment, workdir: pathlib.Path) -> Row:
    task, batch = experiment.task, experiment.run.eval_batch
    with Session(experiment, workdir) as session:
        state = session.restore()
        example = jax.tree.map(np.asarray, session.example)
        operations = flops.count(task.predict, state.variables, example, session.key)
        with closing(session.test_batches()) as batches:
            clips = next(batches)
        predict_ms = _milliseconds(lambda: session.predict(state.variables, clips))
        with closing(session.training_data()) as batches:
            clips = next(batches)
        step, held = session.stepper.step(), [session.stepper.place(state)]

        def train():
            held[0], logs = step(held[0], clips)
            return logs

        step_ms = _milliseconds(train)
    return {
        "mmacs": operations / 2e6,
        "step_ms": step_ms,
        "predict_ms": predict_ms / batch,
        "step_mib": plan(experiment).needed_bytes / 2**20,
    }


def _milliseconds(call: Callable[[], Any], least: int = 5, seconds: float = 1.0) -> float:
    """Median of several calls, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _write(rows: Sequence[Row], headline: str, workdir: pathlib.Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "benchmark.json").write_text(json.dumps(rows, indent=1) + "\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (workdir / "benchmark.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(name)) for name in columns] for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (workdir / "benchmark.md").write_text(table)
    points = {row["arm"]: (row["mmacs"], row[headline]) for row in rows if headline in row}
    if points:
        picture = curves.scatter(points, title=headline, axis="millions of multiply-adds a clip")
        frames.save(workdir / "benchmark.png", picture)


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value or "")
