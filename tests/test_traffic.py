"""Windows of traffic: what they hold, how they are cut, and what is said of bad files."""

import os
import pathlib

import numpy as np
import pytest

from stjax import data
from stjax.data import traffic
from stjax.data.series import Windows, calendar, statistics, windows_of_shares

REAL = pathlib.Path(os.environ.get("STJAX_DATA", "/nonexistent")) / "traffic"
needs_traffic = pytest.mark.skipif(not REAL.is_dir(), reason="STJAX_DATA/traffic")


def write_pemsd7(folder, days=6, sensors=4, slots=288):
    speeds = 60 + np.random.default_rng(0).standard_normal((days * slots, sensors))
    np.savetxt(folder / f"V_{sensors}.csv", speeds, "%.3f", ",")
    metres = 1000 * np.abs(np.subtract.outer(np.arange(sensors), np.arange(sensors)))
    np.savetxt(folder / f"W_{sensors}.csv", metres, "%d", ",")
    return speeds


def test_windows_of_days_cross_no_midnight(tmp_path):
    speeds = write_pemsd7(tmp_path)
    roads = traffic.load("pemsd7", path=str(tmp_path), context=12, horizon=9, split=(4, 1, 1))
    assert [len(part) for part in (roads.train, roads.validation, roads.test)] == [1072, 268, 268]
    for part in (roads.train, roads.test):
        for index in (0, 267, len(part) - 1):
            slots, weekdays = part[index]["time"].T
            assert (np.diff(slots) == 1).all()
            assert len(set(weekdays)) == 1
    first = roads.test[0]
    np.testing.assert_allclose(first["series"][:, :, 0], speeds[5 * 288 :][:21], atol=1e-3)
    assert first["series"].dtype == np.float32
    # Working days from Tuesday on: the sixth is a Tuesday again.
    assert first["time"][0].tolist() == [0, 1]
    assert roads.distances
    assert roads.adjacency[0].tolist() == [0, 1000, 2000, 3000]


def test_shares_are_of_windows_in_time():
    series = np.arange(30.0)[:, None, None]
    parts = windows_of_shares(series, calendar(30, 10, range(7)), 11, (0.7, 0.1, 0.2), "here")
    assert [len(part) for part in parts] == [14, 2, 4]
    assert parts[0][13]["series"].ravel().tolist() == list(range(13, 24))
    assert parts[2][3]["series"].ravel().tolist() == list(range(19, 30))


def test_statistics_are_of_training_steps_that_were_observed():
    series = np.arange(12.0).reshape(6, 2, 1)
    series[4, 0] = np.nan
    train = Windows(series, calendar(6, 2, range(7)), np.arange(4), 2)  # steps 0 to 4
    known = statistics(train, 2)
    seen = [*range(8), 9]
    assert known.mean == pytest.approx(np.mean(seen))
    assert known.std == pytest.approx(np.std(seen))
    np.testing.assert_allclose(known.profile[..., 0], [[2, 5], [4, 5]])
    # Of Wednesday nothing but node 1 at slot 0 was observed: else as on any day.
    np.testing.assert_allclose(known.weekly[2, :, :, 0], [[2, 9], [4, 5]])
    assert statistics(Windows(train.series, train.time, np.arange(2), 2), 2).weekly is None
    with pytest.raises(ValueError, match="all values alike"):
        statistics(Windows(np.ones((6, 2, 1)), calendar(6, 2, range(7)), np.arange(4), 2), 2)


def test_a_time_never_seen_has_the_mean_of_its_node():
    series = np.arange(8.0).reshape(8, 1, 1)
    known = statistics(Windows(series, calendar(8, 8, range(7)), np.arange(3), 2), 8)
    np.testing.assert_allclose(known.profile.ravel(), [0, 1, 2, 3, 1.5, 1.5, 1.5, 1.5])


def test_made_jams_travel_as_the_half_day_says():
    speed, weights = traffic.made(12, 2, 288, seed=3)
    assert np.array_equal(weights, weights.T)
    assert (weights.sum(0) == 2).all()
    jams = speed.mean(0) - speed
    for half in range(4):
        part = jams[144 * half : 144 * (half + 1)]
        up = (part[2:] * np.roll(part[:-2], 1, 1)).mean()
        down = (part[4:] * np.roll(part[:-4], -1, 1)).mean()
        assert max(up, down) > 1.3 * min(up, down)
    again, _ = traffic.made(12, 2, 288, seed=3)
    np.testing.assert_array_equal(speed, again)
    assert speed.min() > 0


def test_missing_values_are_nan_whatever_their_code(tmp_path):
    values = np.arange(1.0, 61).reshape(30, 2)
    values[3, 1] = 0
    np.savez(tmp_path / "speed.npz", data=values[..., None])
    np.save(tmp_path / "adjacency.npy", np.eye(2))
    roads = traffic.load(
        "table", path=str(tmp_path / "speed.npz"), adjacency=str(tmp_path / "adjacency.npy"),
        context=2, horizon=1, missing=0.0, minutes=60, weekday=3,
    )  # fmt: skip
    assert np.isnan(roads.train[3]["series"][0]).ravel().tolist() == [False, True]
    assert roads.train[0]["time"].tolist() == [[0, 3], [1, 3], [2, 3]]


def test_windows_make_batches():
    roads = traffic.load("made", nodes=3, days=3, split=(1, 1, 1), context=12, horizon=9)
    batches = data.pipeline(roads.test, 100)
    try:
        shapes = [batch["series"].shape for batch in batches]
    finally:
        batches.close()
    assert shapes == [(100, 21, 3, 1)] * 3


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "V_4.csv").unlink(), "one V_.*csv wanted, found none"),
        (lambda f: (f / "V_5.csv").write_text("1,2\n"), "found V_4.csv, V_5.csv"),
        (lambda f: (f / "V_4.csv").write_text("1,2\n3,x\n"), r"V_4.csv: could not convert.*'x'"),
        (lambda f: (f / "V_4.csv").write_text("1,2\n3\n"), r"V_4.csv: .*columns changed"),
        (lambda f: (f / "V_4.csv").write_text("1,2,3,4\n" * 300), "300 rows are 1 days of 288"),
        (lambda f: (f / "W_4.csv").write_text("0,1\n1,0\n"), r"graph of \(2, 2\) for 4 sensors"),
    ],
)
def test_bad_files_are_named(tmp_path, break_it, message):
    write_pemsd7(tmp_path)
    break_it(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        traffic.load("pemsd7", path=str(tmp_path), split=(4, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "pems"}, r"^data.source: 'pems' is none of made, pemsd7, table"),
        ({"minutes": 7}, r"^data.minutes: 7"),
        ({"nodes": 2, "days": 3}, "3 at least"),
        ({"nodes": 3, "days": 3, "split": (2, 2, 2)}, "6 days wanted"),
        ({"nodes": 3, "days": 3, "split": (1, 1, 1), "context": 288}, "windows of 300 steps"),
        ({"nodes": 3, "days": 1, "split": (0.7, 0.1, 0.1)}, "shares"),
        ({"source": "table", "path": "no.csv"}, "no.csv: no such file"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        traffic.load(**{"source": "made", **options})


@needs_traffic
def test_measured_traffic():
    """25 sensors of PeMSD7 as the authors cut it; a week of METR-LA."""
    roads = traffic.load("pemsd7", path=str(REAL), nodes=25, horizon=9, split=(34, 5, 5))
    assert [len(part) for part in (roads.train, roads.validation, roads.test)] == [9112, 1340, 1340]
    assert roads.train[0]["series"][0, :3, 0].tolist() == pytest.approx([71.1, 66, 64.6])
    assert roads.adjacency[0, 1] == 3170
    assert roads.statistics.weekly.shape == (7, 288, 25, 1)
    week = traffic.load(
        "table", path=str(REAL / "los_speed.csv"), adjacency=str(REAL / "los_adj.csv"), weekday=3
    )
    assert week.train.series.shape == (2016, 207, 1)
    assert len(week.train) + len(week.validation) + len(week.test) == 2016 - 23
    assert week.statistics.weekly is None
