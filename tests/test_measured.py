"""What "auto" stands for is what was measured."""

import json

import pytest

from benchmarks import measure
from benchmarks.recurrences import TABLE, choices, table
from stjax.ops.measured import EXPECTED

COMMITTED = json.loads(TABLE.read_text())


def rows(shape, **milliseconds):
    lengths = (16, 64, 256)
    return [
        {"shape": shape, "length": length, "method": method, "ms": ms, "ours": method != "peer"}
        for method, values in milliseconds.items()
        for length, ms in zip(lengths, values)
    ]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        # Half way between 16 and 64, by ratio, is 32.
        (rows("a", loop=(1, 2, 3), tree=(2, 1, 1)), [(32, "loop"), (None, "tree")]),
        (rows("a", loop=(1, 1, 9), tree=(2, 2, 2)), [(128, "loop"), (None, "tree")]),
        (rows("a", loop=(1, 1, 1), peer=(0.1, 0.1, 0.1)), [(None, "loop")]),
        # Twice as slow at one shape weighs as much as twice as fast at another.
        (
            rows("a", loop=(10, 10, 10), tree=(20, 20, 20))
            + rows("b", loop=(3, 3, 3), tree=(1, 1, 1)),
            [(None, "tree")],
        ),
    ],
)
def test_the_fastest_of_our_methods_is_chosen_up_to_half_way(results, expected):
    assert choices(results) == expected


ENTRIES = [(backend, operator) for backend, rows in COMMITTED.items() for operator in rows]


@pytest.mark.parametrize(("backend", "operator"), ENTRIES)
def test_the_committed_table_is_that_of_the_committed_results(backend, operator):
    measured = table(measure.RESULTS).get(backend, {}).get(operator)
    if measured is None:
        pytest.skip(f"{measure.RESULTS} holds no result of {operator} on {backend}")
    assert [list(row) for row in measured] == COMMITTED[backend][operator]


def test_no_result_is_without_its_entry():
    for backend, operators in table(measure.RESULTS).items():
        assert set(operators) <= set(COMMITTED[backend])


@pytest.mark.parametrize("backend", sorted(COMMITTED))
def test_every_row_can_be_reached_and_the_last_has_no_end(backend):
    assert set(COMMITTED[backend]) <= set(EXPECTED)
    for entries in COMMITTED[backend].values():
        *ends, last = [longest for longest, _ in entries]
        assert last is None
        assert ends == sorted(set(ends))
