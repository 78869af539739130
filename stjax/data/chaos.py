"""Chaotic systems and what is seen of them: trajectories made when wanted, kept in memory only.

    chaos = load("three_tier", trajectories=32, steps=1000, context=64, horizon=400)
    chaos.train[0]["series"], chaos.std   # (65, 8), (8,): X alone of the three tiers

Rates of change and steps are plain arithmetic, of NumPy's arrays as of JAX's: trajectories are
made in float64 with NumPy, and `stjax.metrics.chaos.largest_lyapunov` differentiates the same step.
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from stjax.data.records import Record

Values = Float[Array, "..."] | Float[np.ndarray, "..."]
State = tuple[Values, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A system in steps of one length.

    Attributes:
        step: state -> state, after `interval`. States are tuples of arrays; any axes may lead.
        start: (generator, m) -> m states to begin a transient with.
        interval: time of a step.
        observe: state -> (..., n), what is seen of it.
        rate: the parts of a state -> how fast each changes; None: it is not stepped by that.
    """

    step: Callable[[State], State]
    start: Callable[[np.random.Generator, int], State]
    interval: float
    observe: Callable[[State], Values] = lambda state: state[0]
    rate: Callable[..., State] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Stretches:
    """Windows of trajectories, each a record; one begins `stride` steps after another.

    Attributes:
        series: (m, t, n) float32, in its own units.
        length: steps of a window.
    """

    series: Float[np.ndarray, "m t n"]
    length: int
    stride: int = 1

    def __post_init__(self):
        if not 1 <= self.length <= self.series.shape[1]:
            raise ValueError(f"series: {self.series.shape}, and a window has {self.length} steps")

    def __len__(self) -> int:
        return len(self.series) * self._each

    def __getitem__(self, index: int) -> Record:
        trajectory, place = divmod(index, self._each)
        window = slice(place * self.stride, place * self.stride + self.length)
        return {"series": self.series[trajectory, window], "id": np.int32(index)}

    @property
    def _each(self) -> int:
        return (self.series.shape[1] - self.length) // self.stride + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Chaos:
    """Windows to train on, held-out ones, and what the training series have in common.

    Attributes:
        train: of `window` steps and one more.
        test: of context and horizon.
        mean, std: of every variable over the training series.
        step_std: of its increments from one step to the next.
        interval: time from one step to the next.
    """

    train: Stretches
    test: Stretches
    mean: Float[np.ndarray, "n"]
    std: Float[np.ndarray, "n"]
    step_std: Float[np.ndarray, "n"]
    interval: float


def load(
    system: str = "three_tier",
    *,
    options: Mapping[str, Any] | None = None,
    window: int = 64,
    context: int = 64,
    horizon: int = 400,
    trajectories: int = 32,
    steps: int = 1_000,
    transient: int = 1_000,
    every: int = 1,
    count_test: int = 50,
    seed: int = 0,
    path: str = "",
    split: tuple[int, int, int] = (8_640, 2_880, 2_880),
    stride: int = 1,
) -> Chaos:
    """A system by name, or a measured series.

    Args:
        system: a key of `SYSTEMS`, or "table": `path` is a `.csv` whose first column is a date and
            whose header names the others (ETTh1.csv).
        options: arguments of the system's function.
        window: steps that a training record predicts.
        context, horizon: steps given and steps forecast of a test record.
        trajectories, steps: how many are trained on, and how long they are seen.
        transient: steps before anything is seen.
        every: steps of the system from one that is seen to the next.
        count_test: test trajectories, from other initial conditions.
        seed: of all initial conditions.
        path, split, stride: of a table: its rows for training, validation (not used) and test, and
            the rows from one test window to the next.

    Raises:
        ValueError, FileNotFoundError: one line that names what is wrong.
    """
    length = context + horizon
    if system == "table":
        series = read_table(path)
        if len(series) < sum(split):
            raise ValueError(f"{path}: {len(series)} rows, and data.split wants {sum(split)}")
        train, test = series[: split[0]], series[sum(split[:2]) - context : sum(split)]
        train, test = Stretches(train[None], window + 1), Stretches(test[None], length, stride)
        interval = 1.0
    else:
        if system not in SYSTEMS:
            raise ValueError(f"data.system: {system!r} is none of {', '.join(SYSTEMS)}, table")
        known = tuple(sorted((options or {}).items()))
        seen = lambda part, count, steps: trajectories_of(
            system, known, count, steps, transient, every, (seed, part)
        )
        train = Stretches(seen(0, trajectories, steps), window + 1)
        test = Stretches(seen(1, count_test, length), length, length)
        interval = SYSTEMS[system](**dict(known)).interval * every
    of_each = lambda x: np.float32(x.std((0, 1), dtype=np.float64))
    mean = np.float32(train.series.mean((0, 1), dtype=np.float64))
    std, step_std = of_each(train.series), of_each(np.diff(train.series, axis=1))
    if not (np.isfinite(mean).all() and (step_std > 0).all()):
        raise ValueError(f"{path or system}: training series that diverge, or stand still")
    return Chaos(train, test, mean, std, step_std, interval)


@functools.lru_cache(maxsize=8)
def trajectories_of(
    system: str,
    options: tuple[tuple[str, Any], ...],
    count: int,
    steps: int,
    transient: int,
    every: int,
    seed: int | tuple[int, ...],
) -> Float[np.ndarray, "count steps n"]:
    """What is seen of a system of `SYSTEMS`, from as many initial conditions: float32."""
    made = SYSTEMS[system](**dict(options))
    state = made.start(np.random.default_rng(seed), count)
    for _ in range(transient):
        state = made.step(state)
    seen = []
    for step in range((steps - 1) * every + 1):
        if step % every == 0:
            seen.append(np.float32(made.observe(state)))
        state = made.step(state)
    return np.stack(seen, 1)


def read_table(path: str) -> Float[np.ndarray, "rows n"]:
    """The columns after the first of a `.csv` with a header, as float32.

    Raises:
        ValueError: rows of another length, or something that is no number, with its line.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{path or 'data.path'}: no such file")
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    values = []
    for line, row in enumerate(rows, start=2):
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields under {len(header)} names")
            values.append([float(field) for field in row[1:]])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    if not values or len(header) < 2:
        raise ValueError(f"{path}: a header of {len(header)} names and {len(values)} rows")
    return np.float32(values)


def rk4(rate: Callable[..., State], interval: float) -> Callable[[State], State]:
    """Runge and Kutta's fourth-order step of d state / dt = rate(*state)."""

    def step(state: State) -> State:
        ahead = lambda slope, time: tuple(x + time * k for x, k in zip(state, slope))
        first = rate(*state)
        second = rate(*ahead(first, interval / 2))
        third = rate(*ahead(second, interval / 2))
        fourth = rate(*ahead(third, interval))
        slopes = zip(state, first, second, third, fourth)
        return tuple(x + interval / 6 * (a + 2 * (b + c) + d) for x, a, b, c, d in slopes)

    return step


def lorenz63(
    interval: float = 0.01, sigma: float = 10.0, rho: float = 28.0, beta: float = 8 / 3
) -> System:
    """Lorenz's convection (1963), all three variables seen."""

    rate = lambda x, y, z: (sigma * (y - x), x * (rho - z) - y, x * y - beta * z)
    start = lambda rng, m: tuple(rng.normal(centre, 5, (m, 1)) for centre in (0, 0, 25))
    return _ordinary(rate, start, interval, lambda state: np.concatenate(state, -1))


def lorenz96(interval: float = 0.01, variables: int = 40, forcing: float = 10.0) -> System:
    """dx_k/dt = x_{k-1} (x_{k+1} - x_{k-2}) - x_k + F on a ring (Lorenz 1996)."""
    start = lambda rng, m: (forcing + rng.normal(0, 0.1, (m, variables)),)
    return _ordinary(lambda x: (_carried(x) - x + forcing,), start, interval)


def multiscale_lorenz96(
    tiers: int,
    interval: float = 0.005,
    slow: int = 8,
    middle: int = 8,
    fast: int = 8,
    forcing: float = 20.0,
    h: float = 1.0,
    b: float = 10.0,
    c: float = 10.0,
    d: float = 10.0,
    e: float = 10.0,
) -> System:
    """Lorenz-96 in two or three tiers, of which the slow one is seen (Thornes et al. 2017).

        dX_k/dt = X_{k-1} (X_{k+1} - X_{k-2}) - X_k + F - (h c / b) sum_j Y_kj
        dY_kj/dt = -c b Y_{k,j+1} (Y_{k,j+2} - Y_{k,j-1}) - c Y_kj + (h c / b) X_k
                   - (h e / d) sum_i Z_kji
        dZ_kji/dt = e d Z_{kj,i-1} (Z_{kj,i+1} - Z_{kj,i-2}) - e Z_kji + (h e / d) Y_kj

    every index cyclic within its own ring, as in the MATLAB code of Chattopadhyay et al. 2020
    (arXiv 1906.08829). Two tiers have no Z.

    Args:
        slow, middle, fast: of X in all, of Y to each X, of Z to each Y.
    """

    def rate(x, y, *z):
        to_x, to_y = h * c / b, h * e / d
        dx = _carried(x) - x + forcing - to_x * y.sum(-1)
        back = _turned(y, 1) * (_turned(y, 2) - _turned(y, -1))
        dy = -c * b * back - c * y + to_x * x[..., None]
        if tiers == 2:
            return dx, dy
        (z,) = z
        dz = e * d * _carried(z) - e * z + to_y * y[..., None]
        return dx, dy - to_y * z.sum(-1), dz

    def start(rng, m):
        state = (
            rng.integers(-5, 6, (m, slow)).astype(float),
            rng.normal(0, 1, (m, slow, middle)),
            rng.normal(0, 0.05, (m, slow, middle, fast)),
        )
        return state[:tiers]

    return _ordinary(rate, start, interval)


def kuramoto_sivashinsky(
    interval: float = 0.25, length: float = 22.0, points: int = 64, fft: Any = np.fft
) -> System:
    """u_t + u u_x + u_xx + u_xxxx = 0 on a ring, in Fourier modes, by ETDRK4.

    (Kassam & Trefethen 2005, SIAM J. Sci. Comput. 26.) No dealiasing; the highest mode does not
    turn.

    Args:
        length: of the ring.
        fft: `numpy.fft`, or `jax.numpy.fft` for a step that JAX can differentiate.
    """
    waves = 2 * np.pi / length * np.arange(points // 2 + 1)
    waves[-1] = 0
    whole, half, into, first, second, third = etdrk4(waves**2 - waves**4, interval)
    slope = lambda v: -0.5j * waves * fft.rfft(fft.irfft(v, points) ** 2)

    def step(state):
        v = fft.rfft(state[0])
        at_v = slope(v)
        a = half * v + into * at_v
        at_a = slope(a)
        at_b = slope(half * v + into * at_a)
        at_c = slope(half * a + into * (2 * at_b - at_v))
        v = whole * v + first * at_v + 2 * second * (at_a + at_b) + third * at_c
        return (fft.irfft(v, points),)

    def start(rng, m):
        places = 2 * np.pi * np.arange(points) / points
        phases = 2 * np.pi * rng.random((m, 4, 1))
        return (np.cos(np.arange(1, 5)[:, None] * places + phases).sum(1),)

    return System(step, start, interval)


def etdrk4(
    rates: Float[np.ndarray, "k"], interval: float, circle: int = 16
) -> tuple[Float[np.ndarray, "k"], ...]:
    """Coefficients of ETDRK4 for dv/dt = rates v + N(v): exp, exp of half, Q, f1, f2, f3.

    The last four are quotients whose parts cancel near 0, so they are means over a circle round
    every rate, in float64 (Kassam & Trefethen 2005, section 3).

    Args:
        circle: points on the circle's upper half; the lower half is its mirror image.
    """
    z = np.float64(rates) * interval
    z = z[:, None] + np.exp(1j * np.pi * (np.arange(circle) + 0.5) / circle)
    exp, mean = np.exp(z), lambda values: interval * values.mean(-1).real
    return (
        np.exp(interval * rates),
        np.exp(interval * rates / 2),
        mean((np.exp(z / 2) - 1) / z),
        mean((-4 - z + exp * (4 - 3 * z + z**2)) / z**3),
        mean((2 + z + exp * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + exp * (4 - z)) / z**3),
    )


SYSTEMS: Mapping[str, Callable[..., System]] = {
    "lorenz63": lorenz63,
    "lorenz96": lorenz96,
    "two_tier": functools.partial(multiscale_lorenz96, 2),
    "three_tier": functools.partial(multiscale_lorenz96, 3),
    "kuramoto_sivashinsky": kuramoto_sivashinsky,
}


def _ordinary(rate, start, interval, observe=lambda state: state[0]) -> System:
    """A system of ordinary differential equations."""
    return System(rk4(rate, interval), start, interval, observe, rate)


def _turned(x: Values, by: int) -> Values:
    """Entry k of the last axis, a ring, is x's entry k + by."""
    size = x.shape[-1]
    return x[..., (np.arange(size) + by) % size]


def _carried(x: Values) -> Values:
    """x_{k-1} (x_{k+1} - x_{k-2}), which keeps the sum of squares."""
    return _turned(x, -1) * (_turned(x, 1) - _turned(x, -2))
