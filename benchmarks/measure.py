"""Fair timings: contenders take turns, in a new order every round, on a machine that is named."""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from stjax.train import cpu

RESULTS = pathlib.Path(__file__).parent / "results"
# One-minute load average above which somebody else is at work.
_BUSY = 0.7

Row = dict[str, Any]


def parser(doc: str, rounds: int = 9) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    arguments = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("--rounds", type=int, default=rounds, help=f"turns of each ({rounds})")
    arguments.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of results")
    return arguments


def begin() -> dict[str, Any]:
    """Sets JAX up as a run does, but without a compilation cache; says where and on what we are.

    Warns where the machine is busy: medians of shared cores mean nothing.
    """
    cpu.quicken()
    jax.config.update("jax_enable_compilation_cache", False)
    load = os.getloadavg()[0]
    if load > _BUSY:
        print(f"warning: load average {load:.1f}; these timings will not be worth keeping")
    return {
        "backend": jax.default_backend(),
        "device": device(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "load_average": load,
        "versions": {
            "python": platform.python_version(), "jax": jax.__version__,
            "jaxlib": jaxlib.__version__, "numpy": np.__version__,
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def device() -> str:
    """The device's name: "NVIDIA H200 x1", or of a CPU its model and the cores that are ours."""
    if jax.default_backend() != "cpu":
        return f"{jax.devices()[0].device_kind} x{jax.device_count()}"
    model = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    name = model.group(1) if model else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name} x{cores}"


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function.

    Attributes:
        call: takes what the function was compiled for.
        compile_seconds: tracing, lowering and compiling, once.
        peak_bytes: arguments, results and temporaries together (less what shares memory), as the
            compiler planned them: what has to fit, not what was seen.
    """

    call: Callable[..., Any]
    compile_seconds: float
    peak_bytes: int


def compiled(function: Callable[..., Any], *args: Any) -> Program:
    """Compiles `function`, jitted or not, for `args`; nothing traced before is used again."""
    jax.clear_caches()
    jitted = function if hasattr(function, "lower") else jax.jit(lambda *args: function(*args))
    start = time.perf_counter()
    program = jitted.lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    peak = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes
        + memory.temp_size_in_bytes - memory.alias_size_in_bytes
    )
    return Program(program, seconds, peak)


def accepted(
    ways: Mapping[str, Callable[..., Any]], arrays: Sequence[Any]
) -> dict[str, Callable[..., Any]]:
    """Those ways through an operator that take these arrays on this backend.

    The others raise a ValueError that names the method; any other error is an error here too.
    """
    found = {}
    for method, function in ways.items():
        try:
            jax.eval_shape(function, *arrays)
        except ValueError as refusal:
            if not str(refusal).startswith("method"):
                raise
        else:
            found[method] = function
    return found


def forward_and_backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """(arrays, cotangent of the first output) -> that output, and the gradient of every array."""

    def run(arrays, cotangent):
        out, pullback = jax.vjp(_first(function), *arrays)
        return out, pullback(cotangent)

    return run


def ones_like_output(function: Callable[..., Any], arrays: Sequence[Any]) -> jax.Array:
    """Ones in the shape of the first output: a cotangent."""
    shape = jax.eval_shape(_first(function), *arrays)
    return jax.numpy.ones(shape.shape, shape.dtype)


def _first(function):
    def first(*arrays):
        out = function(*arrays)
        return out[0] if isinstance(out, tuple) else out

    return first


def agree(
    programs: Mapping[str, Program], args: Sequence[Any], baseline: str, tolerance: float = 1e-3
) -> None:
    """Raises AssertionError where a program's results are not the baseline's."""
    expected = programs[baseline].call(*args)
    for name, program in programs.items():
        for ours, theirs in zip(jax.tree.leaves(program.call(*args)), jax.tree.leaves(expected)):
            error = float(abs(ours - theirs).max() / abs(theirs).max())
            assert error < tolerance, f"{name} differs from {baseline} by {error:.1e}"


def stopwatch(call: Callable[[], Any], at_least: float = 0.02) -> Callable[[], float]:
    """Calls and waits; gives the seconds of one call, a mean over `at_least` seconds of calls.

    Making one warms up: it calls once unseen, and once more to see how many calls that takes.
    """
    seconds = lambda calls: _seconds(call, calls)
    seconds(1)
    calls = max(1, round(at_least / seconds(1)))
    return lambda: seconds(calls)


def take_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0
) -> dict[str, list[float]]:
    """Seconds of each contender, a value a round. Each round runs all, in an order of its own."""
    order, times = list(contenders), {name: [] for name in contenders}
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(contenders[name]())
    return times


def summary(times: Mapping[str, Sequence[float]], baseline: str) -> dict[str, Row]:
    """Median and quartiles in ms, and in units of the baseline: divided round by round, then summed
    up, so that what slows a whole round down cancels."""

    def quartiles(values):
        return [float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))]

    rows = {}
    for name, seconds in times.items():
        milliseconds = 1e3 * np.asarray(seconds)
        low, middle, high = quartiles(milliseconds)
        ratio_low, ratio, ratio_high = quartiles(np.asarray(seconds) / np.asarray(times[baseline]))
        rows[name] = {
            "ms": middle, "ms_quartiles": [low, high],
            "ratio": ratio, "ratio_quartiles": [ratio_low, ratio_high],
        }
    return rows


def race(
    programs: Mapping[str, Program], args: Sequence[Any], baseline: str, rounds: int
) -> dict[str, Row]:
    """Times compiled programs on the same arguments: `summary`, compile seconds and peak MiB."""
    watches = {
        name: stopwatch(lambda program=program: program.call(*args))
        for name, program in programs.items()
    }
    rows = summary(take_turns(watches, rounds), baseline)
    return {name: row | costs(programs[name]) for name, row in rows.items()}


def costs(program: Program) -> Row:
    return {
        "compile_s": round(program.compile_seconds, 2),
        "peak_mib": round(program.peak_bytes / 2**20, 2),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """p of the closest values ~ sizes^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) if len(sizes) > 1 else None


def copy_bandwidth(mebibytes: int = 256) -> float:
    """Bytes a second that one pass over memory reads and writes together; the best of nine."""
    array = jax.numpy.zeros(mebibytes * 2**18, jax.numpy.float32)
    program = compiled(lambda x: x + 1, array)
    watch = stopwatch(lambda: program.call(array))
    return 2 * array.nbytes / min(watch() for _ in range(9))


def write(
    question: str, environment: Mapping[str, Any], rows: Sequence[Row], out: pathlib.Path,
    **others: Any,
) -> pathlib.Path:
    """Writes `<question>-<device>.json` into `out`, prints the rows and where they lie."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{question}-{_slug(environment['device'])}.json"
    result = {"question": question, **environment, **others, "rows": list(rows)}
    path.write_text(json.dumps(result, indent=1) + "\n")
    show(rows)
    print(path)
    return path


def show(rows: Sequence[Row]) -> None:
    """Prints rows as a table; lists (quartiles) are left to the file."""
    names = list(dict.fromkeys(k for row in rows for k, v in row.items() if not _is_list(v)))
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def plot_lines(
    path: pathlib.Path, panels: Mapping[str, Mapping[str, tuple[Sequence, Sequence]]],
    x: str, y: str,
) -> None:
    """Panels of lines, name -> (xs, ys), over logarithmic axes."""

    def draw(axes, lines):
        for name, (xs, ys) in lines.items():
            axes.plot(xs, ys, "o-", label=name)
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axes.legend()

    _plot(path, panels, draw)


def plot_bars(
    path: pathlib.Path, panels: Mapping[str, Mapping[str, tuple[float, Sequence[float]]]], x: str
) -> None:
    """Panels of bars, name -> (value, quartiles)."""

    def draw(axes, bars):
        values = np.array([value for value, _ in bars.values()])
        low, high = np.array([quartiles for _, quartiles in bars.values()]).T
        axes.barh(list(bars), values, xerr=[values - low, high - values])
        axes.set(xlabel=x)

    _plot(path, panels, draw)


def _plot(path, panels, draw):
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("no plot without matplotlib: pip install 'stjax[benchmarks]'")
        return
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, content) in zip(all_axes, panels.items()):
        draw(axes, content)
        axes.set_title(title)
    figure.savefig(path, dpi=120)
    print(path)


def _seconds(call, calls):
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / calls


def _commit():
    git = lambda *args: subprocess.run(
        ("git", *args), cwd=pathlib.Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain") else "")


def _read(path):
    file = pathlib.Path(path)
    return file.read_text() if file.exists() else ""


def _slug(name):
    name = re.sub(r"\((r|tm)\)", "", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", name).strip("-")


def _is_list(value):
    return isinstance(value, (list, tuple))


def _cell(value):
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
