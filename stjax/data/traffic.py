"""Traffic: speeds of sensors on a road network, as the benchmarks' files hold them, or made.

    traffic = load("pemsd7", path="folder", context=12, horizon=9, split=(34, 5, 5))
    traffic.train[0]["series"], traffic.adjacency   # (21, 228, 1) mph, (228, 228)
"""

import dataclasses
import pathlib
import zipfile

import numpy as np
from jaxtyping import Float

from stjax.data.series import (
    Statistics,
    Windows,
    calendar,
    statistics,
    windows_of_days,
    windows_of_shares,
)

WEEK = (0, 1, 2, 3, 4, 5, 6)
SOURCES = ("made", "pemsd7", "table")


@dataclasses.dataclass(frozen=True, eq=False)
class Traffic:
    """Windows of traffic, in time's order, and the road network.

    Attributes:
        train, validation, test: context and horizon in one window.
        adjacency: weights between sensors as the file has them, or distances in metres.
        distances: which of the two.
        statistics: of the training steps.
    """

    train: Windows
    validation: Windows
    test: Windows
    adjacency: Float[np.ndarray, "n n"]
    distances: bool
    statistics: Statistics


def load(
    source: str = "made",
    *,
    path: str = "",
    adjacency: str = "",
    context: int = 12,
    horizon: int = 12,
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    minutes: int = 5,
    missing: float | None = None,
    weekday: int = 0,
    nodes: int = 0,
    days: int = 0,
    seed: int = 0,
) -> Traffic:
    """Traffic by name.

    Args:
        source: "made" (see `made`); "pemsd7": a folder with `V_<n>.csv`, speeds without a header,
            and `W_<n>.csv`, distances in metres (working days, the first a Tuesday); "table": a
            file of speeds, `.csv` with a header of sensors, `.npy`, or `.npz` whose "data" is
            (t, n) or (t, n, f), of which the first feature is taken.
        path: of "pemsd7" and "table".
        adjacency: of "table": the file of weights, `.csv` without a header or `.npy`.
        context, horizon: steps of a window.
        split: training, validation and test: three whole numbers are days, and no window crosses
            midnight; else shares of all windows.
        minutes: from one row to the next; the first row is midnight's.
        missing: the number that stands for no observation, 0 in METR-LA; None: NaN alone does.
        weekday: of the first day of a "table", 0 is Monday.
        nodes: how many sensors a file has to have (0: any), or are made.
        days, seed: of "made".

    Raises:
        ValueError, FileNotFoundError: one line that names the file and what is wrong with it.
    """
    if source not in SOURCES:
        raise ValueError(f"data.source: {source!r} is none of {', '.join(SOURCES)}")
    slots, rest = divmod(24 * 60, minutes)
    if rest:
        raise ValueError(f"data.minutes: {minutes} do not divide a day")
    weekdays, where = WEEK, path
    if source == "made":
        series, weights = made(nodes, days, slots, seed)
        where = "made traffic"
    elif source == "pemsd7":
        series, weights = (_table(_only(path, f"{kind}_*.csv"), skip=0) for kind in "VW")
        weekdays = (1, 2, 3, 4, 0)
    else:
        series, weights = _table(pathlib.Path(path), skip=1), _table(pathlib.Path(adjacency), 0)
        weekdays = WEEK[weekday:] + WEEK[:weekday]
    count = series.shape[1]
    if nodes and count != nodes:
        raise ValueError(f"{where}: {count} sensors, and data.nodes says {nodes}")
    if weights.shape != (count, count):
        raise ValueError(f"{where}: a graph of {weights.shape} for {count} sensors")
    series = series[..., None].astype(np.float32)
    if missing is not None:
        series[series == missing] = np.nan
    time, length = calendar(len(series), slots, weekdays), context + horizon
    if all(isinstance(part, int) for part in split):
        windows = windows_of_days(series, time, length, slots, split, where)
    else:
        windows = windows_of_shares(series, time, length, split, where)
    train = windows[0]
    return Traffic(*windows, weights, source == "pemsd7", statistics(train, slots))


def made(
    nodes: int,
    days: int,
    slots: int,
    seed: int = 0,
    *,
    hops: tuple[int, int] = (2, 4),
    fading: float = 0.95,
) -> tuple[Float[np.ndarray, "t n"], Float[np.ndarray, "n n"]]:
    """Speeds on a ring road whose jams travel, this way or that, and its neighbours' weights.

    Jams arise at random, last for half an hour or so and move on from sensor to sensor, a little
    weaker each time: quickly one way, slowly the other. Which way is drawn anew at midnight and at
    noon and shows in nothing but how jams moved. So the graph is directed and switches. A sensor's
    own past does not tell what comes, nor does the sum over its neighbours tell which way it comes.

    Args:
        nodes: sensors on the ring, numbered along it.
        days: how many.
        slots: steps of a day.
        seed: of all draws.
        hops: steps that a jam takes to the next sensor, up and down their numbers.
        fading: what is left of it there.
    """
    if nodes < 3 or days < 1:
        raise ValueError(f"made traffic: {nodes} sensors (3 at least) and {days} days (1 at least)")
    rng = np.random.default_rng(seed)
    steps = days * slots
    hour = 24 * np.arange(steps)[:, None] / slots % 24
    ways = np.repeat(rng.integers(0, 2, 2 * days), slots // 2)
    arising = (rng.random((steps, nodes)) < 0.003) * rng.gamma(4.0, 7.0, (steps, nodes))
    pulse = np.sin(np.pi * np.arange(1, 9) / 9)
    jams = np.stack([np.convolve(column, pulse)[:steps] for column in arising.T], 1)
    for step in range(max(hops), steps):
        way = ways[step]
        jams[step] += fading * np.roll(jams[step - hops[way]], 1 - 2 * way)
    rush = np.exp(-(((hour - 8) / 1.5) ** 2)) + np.exp(-(((hour - 17.5) / 2) ** 2))
    free = rng.uniform(58, 68, nodes) - rush * rng.uniform(5, 20, nodes)
    # However many jams meet, some speed is left.
    speed = free - 45 * np.tanh(jams / 45) + rng.normal(0, 0.7, (steps, nodes))
    ring = np.eye(nodes)
    return speed, np.roll(ring, 1, 0) + np.roll(ring, -1, 0)


def _only(folder: str, pattern: str) -> pathlib.Path:
    """The one file of a folder whose name ends like the pattern."""
    found = sorted(pathlib.Path(folder).glob(f"*{pattern}"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{folder or '.'}: one {pattern} wanted, found {names}")
    return found[0]


def _table(path: pathlib.Path, skip: int) -> Float[np.ndarray, "rows columns"]:
    """Numbers of a .csv after `skip` lines, of a .npy, or of a .npz's "data"."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".csv":
            array = np.loadtxt(path, delimiter=",", skiprows=skip, ndmin=2)
        else:
            array = np.load(path)
            array = array["data"] if path.suffix == ".npz" else array
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from None
    array = array[..., 0] if array.ndim == 3 else array
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{path}: {array.dtype} {array.shape} instead of numbers (rows, columns)")
    return array
