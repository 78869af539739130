"""Windows of series on a graph, and what is known of the part that is trained on."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stjax.data.records import Record


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of one series, each a record.

    Attributes:
        series: (t, n, f) float32 in the data's own units, NaN where nothing was observed.
        time: slot of the day and day of the week (0 is Monday) of every step.
        starts: first step of each window.
        length: steps of a window.
    """

    series: Float[np.ndarray, "t n f"]
    time: Int[np.ndarray, "t 2"]
    starts: Int[np.ndarray, "windows"]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Record:
        window = slice(self.starts[index], self.starts[index] + self.length)
        return {
            "series": self.series[window], "time": self.time[window], "id": np.int32(index),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What the training steps have in common.

    Attributes:
        mean, std: of all their values.
        profile: mean at each time of day; the node's own mean where a time was never seen.
        weekly: mean at each time of each day of the week; None where the series has days of the
            week that its training steps do not have.
    """

    mean: float
    std: float
    profile: Float[np.ndarray, "slots n f"]
    weekly: Float[np.ndarray, "7 slots n f"] | None


def calendar(steps: int, slots: int, weekdays: Sequence[int]) -> Int[np.ndarray, "steps 2"]:
    """Slot of the day and day of the week of steps from midnight on.

    Args:
        slots: steps of a day.
        weekdays: the days of the week in their order, over and over; those of a series of working
            days that starts on a Tuesday are (1, 2, 3, 4, 0).
    """
    day, slot = np.divmod(np.arange(steps), slots)
    return np.stack([slot, np.asarray(weekdays)[day % len(weekdays)]], 1).astype(np.int32)


def windows_of_days(
    series: np.ndarray, time: np.ndarray, length: int, slots: int, days: Sequence[int], where: str
) -> list[Windows]:
    """For each number of `days`, one after the other, the windows that lie within a day of them.

    Raises:
        ValueError: fewer days than asked for, or days shorter than a window.
    """
    whole, rest = divmod(len(series), slots)
    if rest or whole < sum(days):
        raise ValueError(
            f"{where}: {len(series)} rows are {whole} days of {slots} and {rest} rows; "
            f"{sum(days)} days wanted"
        )
    if length > slots:
        raise ValueError(f"{where}: windows of {length} steps in days of {slots}")
    within = np.arange(slots - length + 1)
    edges = np.cumsum([0, *days])
    return [
        Windows(series, time, (np.arange(a, b)[:, None] * slots + within).ravel(), length)
        for a, b in itertools.pairwise(edges)
    ]


def windows_of_shares(
    series: np.ndarray, time: np.ndarray, length: int, shares: Sequence[float], where: str
) -> list[Windows]:
    """All windows in their order, cut in shares of their number: 0.7, 0.1, 0.2 as DCRNN does.

    Windows at a border share steps; those of training and test do not where a share lies between.

    Raises:
        ValueError: shares that do not add up to 1, or one without a window.
    """
    count = len(series) - length + 1
    if abs(sum(shares) - 1) > 1e-6 or min(shares) * count < 1:
        raise ValueError(
            f"{where}: {len(series)} rows have {max(count, 0)} windows of {length}, "
            f"not to be cut in shares {tuple(shares)}"
        )
    edges = np.rint(np.cumsum([0, *shares]) * count).astype(int)
    return [Windows(series, time, np.arange(a, b), length) for a, b in itertools.pairwise(edges)]


def statistics(train: Windows, slots: int) -> Statistics:
    """Statistics of the steps from the first training window's to the last one's.

    Raises:
        ValueError: nothing observed, or all alike.
    """
    seen = slice(train.starts[0], train.starts[-1] + train.length)
    series, (slot, weekday) = train.series[seen].astype(np.float64), train.time[seen].T
    if not np.isfinite(series).any() or not np.nanstd(series) > 0:
        raise ValueError(f"training series {series.shape}: nothing observed, or all values alike")
    mean, one = np.nanmean(series), np.zeros_like(slot)
    of_node = _filled(_means(series, one, 1), mean)
    profile = _filled(_means(series, slot, slots), of_node)
    weekly = _means(series, weekday * slots + slot, 7 * slots).reshape(7, *profile.shape)
    return Statistics(
        mean=float(mean),
        std=float(np.nanstd(series)),
        profile=profile.astype(np.float32),
        weekly=_filled(weekly, profile).astype(np.float32)
        if set(train.time[:, 1]) <= set(weekday)
        else None,
    )


def _means(series, groups, count):
    """Mean of each group of steps, NaN where nothing was observed."""
    known = np.isfinite(series)
    total, number = np.zeros((2, count, *series.shape[1:]))
    np.add.at(total, groups, np.where(known, series, 0))
    np.add.at(number, groups, known)
    with np.errstate(invalid="ignore"):
        return total / number


def _filled(means, others):
    return np.where(np.isfinite(means), means, others)
