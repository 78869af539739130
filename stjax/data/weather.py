"""Weather: WeatherBench (Rasp et al. 2020, arXiv 2002.00469) as OpenSTL takes it, or one's own.

    splits = data.load("weather:WeatherBench/5.625deg", variables=("t2m",), context=12, horizon=12)
    splits.train[0]["video"], splits.train[0]["hour"]  # (24, 32, 64, 1) z-scores, (24,) of the day
    splits.test.mean, splits.test.std  # of the training years, for the units
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from stjax.data.grids import SUFFIXES, Series, Times
from stjax.data.records import OpenedLate, Record, Size, resize

# Folders of WeatherBench's variables.
FOLDERS = {
    "t2m": "2m_temperature", "r": "relative_humidity", "t": "temperature", "z": "geopotential",
    "tcc": "total_cloud_cover", "tp": "total_precipitation",
    "u": "u_component_of_wind", "v": "v_component_of_wind",
    "u10": "10m_u_component_of_wind", "v10": "10m_v_component_of_wind",
}  # fmt: skip
# Variables that OpenSTL counts as one, with several channels.
GROUPS = {"uv10": ("u10", "v10")}
YEARS = ("2010", "2015"), ("2017", "2018")
_BLOCK = 256  # fields read at once for the statistics

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Grid(OpenedLate):
    """Fields of several variables at the same times, one after the other in the channels.

    Attributes:
        series: the variables, with their levels.
        crop: rows and columns from the first that are kept; None: all.
        size: height and width, or one for both, to average them to; None leaves them.
    """

    series: tuple[Series, ...]
    crop: tuple[int, int] | None = None
    size: Size | None = None

    @functools.cached_property
    def times(self) -> Times:
        times = self.series[0].times
        for other in self.series[1:]:
            if not np.array_equal(other.times, times):
                raise ValueError(
                    f"{other.paths[0].parent}: {other.variable} has other times than "
                    f"{self.series[0].variable}"
                )
        return times

    def read(self, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n h w c"]:
        """The fields in their own units.

        Raises:
            ValueError: one line that names the variable and the time of a value that is none.
        """
        fields = np.concatenate([self._read(series, places) for series in self.series], -1)
        if self.crop is not None:
            height, width = self.crop
            if height > fields.shape[1] or width > fields.shape[2]:
                raise ValueError(f"data.crop: {self.crop} of a grid of {fields.shape[1:3]}")
            fields = fields[:, :height, :width]
        return fields if self.size is None else resize(fields, self.size)

    def _read(self, series: Series, places: Int[np.ndarray, " n"]):
        fields = series.read(places)
        wrong = ~np.isfinite(fields)
        if wrong.any():
            first = int(np.flatnonzero(wrong.any((1, 2, 3)))[0])
            raise ValueError(
                f"{series.paths[0].parent}: {series.variable} at {series.times[places[first]]}: "
                f"{int(wrong[first].sum())} of {wrong[first].size} values are NaN"
            )
        return fields


@dataclasses.dataclass(frozen=True, eq=False)
class Weather(OpenedLate):
    """Clips of fields as z-scores, float32, with the hour of the day of each frame.

    Attributes:
        grid: where the fields come from.
        variables: their names; each has as many channels as any other.
        place: first time, time after the last, and step, among the grid's times.
        offsets: frames of a clip, in steps.
        mean, std: a number a channel, of the training times: from z-scores back to units.
        own: what this set is normalised with instead (`published`); None: mean and std.
        count: at most so many clips, from the first; None: all.
    """

    grid: Grid
    variables: tuple[str, ...]
    place: tuple[int, int, int]
    offsets: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own: Statistics | None = None
    count: int | None = None

    def __len__(self) -> int:
        # OpenSTL's windows leave out the last one.
        count = len(range(*self.place)) - (self.offsets[-1] + 1)
        return max(count if self.count is None else min(count, self.count), 0)

    def __getitem__(self, index: int) -> Record:
        places = np.arange(*self.place)[index + np.array(self.offsets)]
        mean, std = (np.float32(x) for x in self.own or (self.mean, self.std))
        video = (self.grid.read(places) - mean) / std
        return {"video": video, "hour": _hours(self.grid.times[places]), "id": np.int32(index)}


def splits(
    root: str,
    context: int,
    horizons: tuple[int, int],
    *,
    variables: Sequence[str] = ("t2m",),
    levels: Sequence[int] = (),
    times: tuple[tuple[str, str], tuple[str, str]] = YEARS,
    step: int = 1,
    crop: tuple[int, int] | None = None,
    size: Size | None = None,
    counts: tuple[int | None, int | None] = (None, None),
    published: bool = False,
) -> tuple[Weather, Weather]:
    """Training and test clips.

    Args:
        root: WeatherBench's folder of a resolution, with a folder a variable; or a folder of
            netCDF or GRIB files; or one file.
        context, horizons: frames given, and frames to predict in training and in testing.
        variables: names of `FOLDERS` and `GROUPS`.
        levels: pressures in hPa of each variable; (): the only level, or the file's last.
        times: first and last of training, first and last of testing: years, months, days or
            hours in ISO's form, the last one included.
        step: hours (times of the files) from one frame to the next.
        crop, size: of the grid, see `Grid`.
        counts: at most so many clips.
        published: as OpenSTL's loader does it: test fields are normalised by their own mean and
            deviation (and brought back to units by those of the training), and where the step is
            6 the frames of a clip lie at -17, -11, -5, 0, 1, 7, 13, ... steps instead of one by
            one, since the step is taken twice.
    """
    names = [name for group in variables for name in GROUPS.get(group, (group,))]
    root = pathlib.Path(root)
    series = tuple(Series(_files(root, name), name, tuple(levels)) for name in names)
    grid = Grid(series, crop and tuple(crop), size)
    places = [_span(grid, first, last, step) for first, last in times]
    mean, std = _statistics(grid, places[0])
    own = (None, _statistics(grid, places[1]) if published else None)
    twice = published and step == 6
    both = tuple(
        Weather(
            grid, tuple(variables), places[k], _offsets(context, horizons[k], twice), mean, std,
            own[k], counts[k],
        )
        for k in range(2)
    )  # fmt: skip
    for clips, (first, last) in zip(both, times):
        if not len(clips):
            held, wanted = len(range(*clips.place)), clips.offsets[-1] + 2
            raise ValueError(f"{root}: {held} times from {first} to {last}, not {wanted}")
    return both


def _offsets(context: int, horizon: int, published: bool) -> tuple[int, ...]:
    if not published:
        return tuple(range(context + horizon))
    places = [*(6 * k + 1 for k in range(1 - context, 0)), 0, *(6 * k + 1 for k in range(horizon))]
    return tuple(place - places[0] for place in places)


def _files(root: pathlib.Path, name: str) -> tuple[pathlib.Path, ...]:
    """WeatherBench's files of a variable, or all files of a folder, or the one file."""
    if root.is_file():
        return (root,)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such file or folder")
    place = root / FOLDERS.get(name, name)
    place = place if place.is_dir() else root
    files = tuple(sorted(path for path in place.iterdir() if path.suffix in SUFFIXES))
    if not files:
        raise FileNotFoundError(
            f"{root}: neither a folder {FOLDERS.get(name, name)} nor files ({', '.join(SUFFIXES)})"
        )
    return files


def _span(grid: Grid, first: str, last: str, step: int) -> tuple[int, int, int]:
    """Places of the times from `first` to the end of `last`, but for the very last of them.

    Raises:
        ValueError: times that the files do not hold.
    """
    times, where = grid.times, grid.series[0].paths[0].parent
    start, end = np.datetime64(first), np.datetime64(last) + 1
    begin, stop = (int(np.searchsorted(times, time.astype("M8[s]"))) for time in (start, end))
    held = times[begin:stop]
    between = np.diff(held)
    # A set may begin some hours into its first day, not later.
    day = np.timedelta64(1, "D")
    if len(held) < 2 or held[0] >= start + day or held[-1] < end - day:
        raise ValueError(
            f"{where}: {first} to {last} wanted, and the files hold {times[0]} to {times[-1]}"
        )
    gaps = np.flatnonzero(between != between[0])
    if len(gaps):
        raise ValueError(
            f"{where}: nothing between {held[gaps[0]]} and {held[gaps[0] + 1]}, and {between[0]} "
            "elsewhere"
        )
    return begin, stop - 1, step


def _statistics(grid: Grid, place: tuple[int, int, int]) -> Statistics:
    """Mean and standard deviation of each channel over the times, read block by block."""
    places, total, squares, count = np.arange(*place), 0, 0, 0
    for first in range(0, len(places), _BLOCK):
        fields = grid.read(places[first : first + _BLOCK]).astype(np.float64)
        total, squares = total + fields.sum((0, 1, 2)), squares + (fields**2).sum((0, 1, 2))
        count += fields[..., 0].size
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if (std <= 1e-6 * np.abs(mean)).any():
        channel = int(np.argmin(std))
        raise ValueError(f"{grid.series[0].paths[0].parent}: channel {channel} never changes")
    return tuple(mean.tolist()), tuple(std.tolist())


def _hours(times: Times) -> Int[np.ndarray, " t"]:
    return (times - times.astype("M8[D]")).astype("m8[h]").astype(np.int32)
