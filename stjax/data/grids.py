"""Fields on a grid over time: netCDF (3 and 4) and GRIB files, read by time.

netCDF-4 is read by h5py, GRIB by ECMWF's eccodes: the extra `weather`. netCDF-3 is mapped into
memory by scipy.
"""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int, Shaped

from stjax.data import hdf5
from stjax.data.records import OpenedLate

Times = Shaped[np.ndarray, " t"]  # datetime64[s]
Fields = Float[np.ndarray, "n h w levels"]

SUFFIXES = (".nc", ".grib", ".grb", ".grib2")
_TIME, _LEVEL = ("time", "valid_time"), ("level", "pressure_level", "isobaricInhPa", "plev")
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
# What ECMWF calls them in GRIB, where that is not what they are called in netCDF.
_SHORT = {"t2m": "2t", "d2m": "2d", "u10": "10u", "v10": "10v"}
_DECODING = threading.Lock()  # eccodes is not made for several threads


class Part(Protocol):
    """One variable of one file."""

    times: Times

    def read(self, places: Int[np.ndarray, " n"]) -> Fields:
        """The fields of these times, float32, NaN where there is none."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series(OpenedLate):
    """One variable, over all files that hold a part of its time.

    Attributes:
        paths: the files.
        variable: its name, as in WeatherBench's netCDF files (t2m, u10, r, ...).
        levels: pressures in hPa; (): the only level, or the file's last.
    """

    paths: tuple[pathlib.Path, ...]
    variable: str
    levels: tuple[int, ...] = ()

    @functools.cached_property
    def times(self) -> Times:
        times = np.concatenate([part.times for part in self._parts])
        wrong = np.flatnonzero(np.diff(times) <= np.timedelta64(0, "s"))
        if len(wrong):
            raise ValueError(f"{self.paths[0].parent}: {self.variable} {times[wrong[0]]} twice")
        return times

    def read(self, places: Int[np.ndarray, " n"]) -> Fields:
        """The fields at these places of `times`, which rise."""
        which = np.searchsorted(self._ends, places, side="right")
        first = np.append(0, self._ends)
        return np.concatenate(
            [self._parts[k].read(places[which == k] - first[k]) for k in np.unique(which)]
        )

    @functools.cached_property
    def _parts(self) -> list[Part]:
        parts = [_part(path, self.variable, self.levels) for path in self.paths]
        return sorted(parts, key=lambda part: part.times[0])

    @functools.cached_property
    def _ends(self):
        return np.cumsum([len(part.times) for part in self._parts])


def _part(path: pathlib.Path, variable: str, levels: tuple[int, ...]) -> Part:
    """Raises FileNotFoundError, ValueError: one line that names the file and what it lacks."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GRIB":
        return _Grib(path, _SHORT.get(variable, variable), levels)
    if magic == b"\x89HDF":
        file = hdf5.open_file(path)
        return _NetCdf(path, {k: (v, dict(v.attrs)) for k, v in file.items()}, variable, levels)
    if magic[:3] == b"CDF":
        return _NetCdf(path, _classic(path), variable, levels)
    raise ValueError(f"{path}: begins with {magic!r}, neither netCDF nor GRIB")


def _classic(path: pathlib.Path) -> dict[str, tuple[Any, dict]]:
    from scipy.io import netcdf_file

    try:
        file = netcdf_file(path, mmap=True, maskandscale=False)
        # The map outlives the file, and scipy would warn of that when it closes the file itself.
        file.fp.close()
        return {name: (v.data, dict(v._attributes)) for name, v in file.variables.items()}
    except (ValueError, TypeError, IndexError, OSError) as error:
        raise ValueError(f"{path}: not a readable netCDF-3 file ({error})") from None


class _NetCdf:
    """A variable (time, [level,] latitude, longitude), unpacked as its attributes say."""

    def __init__(
        self,
        path: pathlib.Path,
        variables: Mapping[str, tuple[Any, Mapping[str, Any]]],
        name: str,
        levels: Sequence[int],
    ):
        time = next((key for key in _TIME if key in variables), None)
        if name not in variables or time is None:
            wanted = name if time else "time"
            raise ValueError(f"{path}: holds {', '.join(variables)}, no {wanted}")
        self._path, (self._array, self._attributes) = path, variables[name]
        self.times = _decoded_times(*variables[time], f"{path}: {time}")
        shape = self._array.shape
        if len(shape) not in (3, 4) or shape[0] != len(self.times):
            raise ValueError(
                f"{path}: {name} {shape} instead of ({len(self.times)} times, [levels,] h, w)"
            )
        held = next((np.ravel(variables[key][0][()]) for key in _LEVEL if key in variables), ())
        self._levels = _places(levels, held, shape[1] if len(shape) == 4 else 0, f"{path}: {name}")

    def read(self, places: Int[np.ndarray, " n"]) -> Fields:
        steps = np.unique(np.diff(places))
        if len(steps) > 1:
            return np.concatenate([self.read(place[None]) for place in places])
        along = slice(int(places[0]), int(places[-1]) + 1, int(steps[0]) if len(steps) else 1)
        try:
            found = [self._array[(along, *level)] for level in self._levels]
        except OSError as error:
            raise ValueError(f"{self._path}: {_line(error)}") from None
        return np.stack([self._unpacked(field) for field in found], -1)

    def _unpacked(self, raw):
        values = raw.astype(np.float32)
        for name in ("_FillValue", "missing_value"):
            if name in self._attributes:
                values[raw == np.ravel(self._attributes[name])[0]] = np.nan
        scale, offset = (
            np.float32(np.ravel(self._attributes.get(name, default))[0])
            for name, default in (("scale_factor", 1), ("add_offset", 0))
        )
        return values * scale + offset


class _Grib:
    """The messages of one variable, decoded one by one."""

    def __init__(self, path: pathlib.Path, name: str, levels: Sequence[int]):
        self._path, self._name = path, name
        found = _grib_index(path)
        mine = {key: place for key, place in found.items() if key[0] == name}
        if not mine:
            held = ", ".join(sorted({key[0] for key in found}))
            raise ValueError(f"{path}: holds {held}, no {name}")
        held = sorted({level for _, level, _ in mine})
        where = f"{path}: {name}"
        wanted = [held[level] for (level,) in _places(levels, held, len(held), where)]
        self.times = np.unique([time for _, _, time in mine])
        try:
            self._messages = [[mine[name, k, time] for k in wanted] for time in self.times]
        except KeyError as error:
            _, level, time = error.args[0]
            raise ValueError(f"{where}: no level {level} at {time}") from None

    def read(self, places: Int[np.ndarray, " n"]) -> Fields:
        with self._path.open("rb") as file, _DECODING:
            fields = [[self._field(file, *at) for at in self._messages[k]] for k in places]
        return np.stack([np.stack(levels, -1) for levels in fields])

    def _field(self, file, offset, size):
        eccodes = _eccodes(self._path)
        file.seek(offset)
        message = file.read(size)
        if len(message) < size:
            raise ValueError(f"{self._path}: ends within the message at byte {offset}")
        handle = eccodes.codes_new_from_message(message)
        try:
            missing = np.float64(-1e30)
            eccodes.codes_set(handle, "missingValue", missing)
            values = eccodes.codes_get_values(handle)
            rows, columns = (eccodes.codes_get(handle, name) for name in ("Nj", "Ni"))
        except eccodes.CodesInternalError as error:
            raise ValueError(f"{self._path}: message at byte {offset}: {error}") from None
        finally:
            eccodes.codes_release(handle)
        return np.where(values == missing, np.nan, values).reshape(rows, columns).astype(np.float32)


def _grib_index(path: pathlib.Path) -> dict[tuple[str, int, np.datetime64], tuple[int, int]]:
    """First byte and bytes of each message by name, level and time."""
    eccodes, found = _eccodes(path), {}
    with path.open("rb") as file, _DECODING:
        try:
            while handle := eccodes.codes_grib_new_from_file(file, headers_only=True):
                name, level, date, time, offset, size = (
                    eccodes.codes_get(handle, key, kind)
                    for key, kind in (
                        ("shortName", str), ("level", int), ("validityDate", int),
                        ("validityTime", int), ("offset", int), ("totalLength", int),
                    )
                )  # fmt: skip
                eccodes.codes_release(handle)
                day = f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}"
                when = np.datetime64(f"{day}T{time // 100:02d}:{time % 100:02d}:00")
                found[name, level, when] = offset, size
        except eccodes.CodesInternalError as error:
            raise ValueError(f"{path}: message {len(found)}: {error}") from None
    return found


def _places(
    wanted: Sequence[int], held: Sequence[int], count: int, where: str
) -> list[tuple[int, ...]]:
    """Indices of levels after that of the time: those wanted, or the only one, or the last."""
    if not wanted:
        return [(count - 1,)] if count else [()]
    held = [int(level) for level in held]
    absent = [level for level in wanted if level not in held]
    if absent or not count:
        raise ValueError(f"{where}: levels {held}, no {', '.join(map(str, absent or wanted))}")
    return [(held.index(level),) for level in wanted]


def _decoded_times(values: Any, attributes: Mapping[str, Any], where: str) -> Times:
    units = attributes.get("units", b"")
    units = units.decode() if isinstance(units, bytes) else str(units)
    unit, _, since = units.partition(" since ")
    try:
        start = np.datetime64(since.strip().replace(" ", "T", 1).removesuffix("Z"), "s")
        seconds = np.asarray(values[()], np.float64) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ValueError(f"{where}: units {units!r} instead of 'hours since <date>'") from None
    return start + np.rint(seconds).astype("timedelta64[s]")


def _eccodes(path: pathlib.Path):
    try:
        import eccodes
    except (ImportError, RuntimeError):
        raise ValueError(
            f"{path}: GRIB is read by eccodes, which is not installed: pip install 'stjax[weather]'"
        ) from None
    return eccodes


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
