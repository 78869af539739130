"""Which method is the fastest where: what `method="auto"` stands for.

`measured.json` says so, backend by backend, for the operators that have been timed there;
`python -m benchmarks.recurrences --choose` writes it from the results in benchmarks/results.
"""

import functools
import json
import pathlib

from stjax.ops.backend import backend

# Rows (longest length, method), the last without end.
Rows = list[tuple[int | None, str]]

# What to take on a backend where nobody has measured: the form with the least sequential work that
# needs no kernel of its own.
EXPECTED: dict[str, Rows] = {
    "linear_recurrence": [(None, "associative")],
    "selective_scan": [(None, "chunked")],
    "gated_linear_attention": [(None, "chunked")],
    "channel_gated_linear_attention": [(None, "chunked")],  # a decay for every key channel
    "delta_rule": [(None, "chunked")],
    "attention": [(4096, "dense"), (None, "chunked")],
}


def fastest(operator: str, length: int) -> str:
    """The method that `operator` should use for `length` steps on the backend traced for.

    Args:
        operator: a key of EXPECTED.
        length: steps along time; of attention the square root of the number of logits.
    """
    rows = _table().get(backend(), {}).get(operator, EXPECTED[operator])
    return next(method for longest, method in rows if longest is None or length <= longest)


@functools.cache
def _table() -> dict[str, dict[str, Rows]]:
    """backend -> operator -> rows."""
    return json.loads((pathlib.Path(__file__).parent / "measured.json").read_text())
