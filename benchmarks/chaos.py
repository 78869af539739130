"""Which parts help a forecaster of chaos: gates, recurrence, attention? All arms at equal size.

    python -m benchmarks.chaos                          # three-tier Lorenz-96, Kuramoto-Sivashinsky
    python -m benchmarks.chaos --systems three_tier --updates 2000 --seeds 5

Every arm of `configs.deconstructing` is as wide as makes it about as large as the others. Its seeds
(parameters, batches, noise) train side by side in one program, by `vmap`, on the same trajectories,
and forecast the same ones that nobody trained on: so that differences are taken pair by pair. The
linear autoregressions that a forecaster has to beat are rows of the same table. Valid prediction
times are in Lyapunov times, at an error of half a standard deviation of the training series.
"""

import argparse
import bisect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from ml_collections import ConfigDict

from benchmarks import measure
from configs import deconstructing
from experiments.deconstructing import experiment
from stjax.models.series.hybrid import Hybrid
from stjax.tasks.base import Task
from stjax.train.config import override

# What a part is worth: the arm with it, the arm without it.
COMPARISONS = {
    **{f"gating of {m}": (f"{m}+NG", m) for m in ("GRU", "LSTM", "RHN", "Transformer")},
    **{f"attention of {m}+NG": (f"{m}+NG+att", f"{m}+NG") for m in ("GRU", "LSTM", "RHN")},
    **{f"both of {m}": (f"{m}+NG+att", m) for m in ("GRU", "LSTM", "RHN")},
    **{
        f"recurrence by {part}": (f"Transformer+{part}", "Transformer")
        for part in ("segments", "tokens")
    },
    "RHN+NG+att for a transformer": ("RHN+NG+att", "Transformer"),
}
Scores = dict[str, np.ndarray]


def config_of(system: str, arm: Mapping[str, Any], arguments: argparse.Namespace) -> ConfigDict:
    """The tiny config with the fields of a system, of the command line and of an arm."""
    fields = {
        **deconstructing.SYSTEMS[system],
        "train.steps": arguments.updates,
        "train.batch": arguments.batch,
        **dict(field.split("=", 1) for field in arguments.set),
        **arm,
    }
    texts = {name: str(value) for name, value in fields.items()}
    return override(deconstructing.get_config("tiny"), texts)


def fitted(config: ConfigDict, parameters: int, variables: int) -> tuple[ConfigDict, int]:
    """The config at the width, a multiple of its heads, whose count is closest; and the count."""
    series = jax.ShapeDtypeStruct((1, 8, variables), jnp.float32)

    def count(features):
        config.model.features = features
        model = Hybrid(**config.model)
        shapes = jax.eval_shape(model.init, jax.random.key(0), series)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    widths = range(config.model.heads, 1_025, config.model.heads)
    above = bisect.bisect_left(widths, parameters, key=count)
    near = {count(width): width for width in widths[max(above - 1, 0) : above + 1]}
    closest = min(near, key=lambda count: abs(count - parameters))
    config.model.features = near[closest]
    return config, closest


def ensemble(
    task: Task,
    optimizer: optax.GradientTransformation,
    series: np.ndarray,
    *,
    window: int,
    batch: int,
    updates: int,
    seeds: int,
) -> tuple[Any, np.ndarray]:
    """Trains `seeds` alike models at once.

    Args:
        series: (m, t, n), from which windows are drawn on the device.
        window: steps that a record predicts.

    Returns:
        Their variables, stacked, and their losses, (seeds, updates).
    """
    series = jnp.asarray(series)

    def draw(key):
        which, where = jax.random.split(key)
        start = jax.random.randint(where, (), 0, series.shape[1] - window)
        trajectory = series[jax.random.randint(which, (), 0, len(series))]
        return lax.dynamic_slice_in_dim(trajectory, start, window + 1)

    def update(carry, at):
        params, state = carry
        step, key = at
        data, noise = jax.random.split(key)
        records = {"series": jax.vmap(draw)(jax.random.split(data, batch))}
        loss = lambda params: task.loss({"params": params}, records, noise, step)[0]
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, change), state), value

    def train(key):
        first, rest = jax.random.split(key)
        params = task.init(first, {"series": series[:1, : window + 1]})["params"]
        steps = jnp.arange(updates), jax.random.split(rest, updates)
        (params, _), losses = lax.scan(update, (params, optimizer.init(params)), steps)
        return {"params": params}, losses

    trained, losses = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), seeds))
    return trained, np.asarray(losses)


def scores(task: Task, predictions: Any, batch: Mapping[str, Any]) -> Scores:
    """Metric -> value of every sample."""
    found = jax.jit(task.metrics)(predictions, batch)
    return {name: np.asarray(values) for name, (values, _) in found.items()}


def run_arm(
    config: ConfigDict, parameters: int, seeds: int
) -> tuple[dict[str, Any], np.ndarray]:
    """An arm's row, and the valid time of every seed and test trajectory."""
    data = experiment(config).data
    config, count = fitted(config, parameters, data.train.series.shape[-1])
    made = experiment(config)
    start = time.perf_counter()
    trained, losses = ensemble(
        made.task, made.optimizer, data.train.series, window=config.data.window,
        batch=config.train.batch, updates=config.train.steps, seeds=seeds,
    )
    seconds = time.perf_counter() - start
    batch = {"series": jnp.asarray(data.test.series)}
    predict = lambda variables: made.task.predict(variables, batch, jax.random.key(0))
    forecasts = jax.jit(jax.vmap(predict))(trained)
    by_seed = [scores(made.task, forecast, batch) for forecast in forecasts]
    row = {"features": config.model.features, "parameters": count}
    row |= spread([made.task.summarise(samples) for samples in by_seed])
    row |= {"loss": float(losses[:, -20:].mean()), "train_s": round(seconds, 1)}
    return row, np.stack([samples["valid_time"] for samples in by_seed])


def spread(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over seeds and, where there are several, standard deviation of the metrics compared."""
    names = {"vpt": "valid_time", "nrmse": "nrmse", "spectrum_db": "spectrum_db"}
    row = {}
    for name, metric in names.items():
        values = np.array([report[metric] for report in reports])
        row[name] = float(values.mean())
        row[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return row


def trivial_rows(config: ConfigDict) -> list[dict[str, Any]]:
    """What a forecaster has to beat, taught by all training windows that do not overlap."""
    made = experiment(config)
    task, train, length = made.task, made.data.train.series, config.data.window + 1
    whole = train[:, : train.shape[1] // length * length].reshape(-1, length, train.shape[-1])
    batch = {"series": jnp.asarray(made.data.test.series)}
    summary = jax.jit(task.summary)({"series": jnp.asarray(whole)})
    forecasts = jax.jit(task.trivial)(summary, batch)
    return [
        {"arm": name} | spread([task.summarise(scores(task, forecast, batch))])
        for name, forecast in forecasts.items()
    ]


def compare(valid: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """What each part adds to the valid time, pair by pair.

    Args:
        valid: arm -> valid times (seeds, trajectories).
    """
    rows = []
    for name, (arm, other) in COMPARISONS.items():
        if arm in valid and other in valid:
            gain = valid[arm] - valid[other]
            of_each = gain.mean(0)
            rows.append({
                "part": name,
                "gain": float(gain.mean()),
                # Over trajectories, each the mean of its seeds.
                "standard_error": float(of_each.std(ddof=1) / len(of_each) ** 0.5),
                "seeds_better": int((gain.mean(1) > 0).sum()),
                "seeds": len(gain),
            })
    return rows


def markdown(title: str, *tables: Sequence[Mapping[str, Any]]) -> str:
    """Tables under a title."""
    lines = [f"# {title}"]
    for rows in tables:
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_cell(row.get(name)) for name in names] for row in rows]
        lines += [""] + ["| " + " | ".join(line) + " |" for line in
                         [names, ["---"] * len(names), *cells]]
    return "\n".join(lines) + "\n"


def _cell(value):
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__, rounds=1)
    parser.add_argument(
        "--systems", nargs="+", choices=deconstructing.SYSTEMS,
        default=list(deconstructing.SYSTEMS),
    )
    parser.add_argument(
        "--arms", nargs="+", choices=deconstructing.ARMS, default=list(deconstructing.ARMS)
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--parameters", type=int, default=60_000)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other fields of the config"
    )
    arguments = parser.parse_args(argv)
    environment = measure.begin()
    names = ("seeds", "updates", "batch", "parameters")
    settings = {name: getattr(arguments, name) for name in names}
    said = ", ".join(f"{value:,} {name}" for name, value in settings.items())
    for system in arguments.systems:
        rows, valid = trivial_rows(config_of(system, {}, arguments)), {}
        for arm in arguments.arms:
            config = config_of(system, deconstructing.ARMS[arm], arguments)
            row, valid[arm] = run_arm(config, arguments.parameters, arguments.seeds)
            rows.append({"arm": arm} | row)
            parts = compare(valid)
            # After every arm, so that what is stopped leaves what it found.
            path = measure.write(
                f"chaos-{system}", environment, rows, arguments.out, parts=parts, **settings
            )
            path.with_suffix(".md").write_text(markdown(f"{system}: {said}", rows, parts))
        measure.show(parts)


if __name__ == "__main__":
    main()
