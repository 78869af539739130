"""Which method is the fastest where: what `method="auto"` stands for.

`measured.json` says so, backend by backend, for the operators that have been timed there;
`python -m benchmarks.recurrences --choose` writes it from the results in benchmarks/results.
"""

import functools
import json
import pathlib

import jax

# What to take on a backend where nobody has measured: the form with the least sequential work that
# needs no kernel of its own.
EXPECTED = {
    "linear_recurrence": "associative",
    "selective_scan": "chunked",
    "gated_linear_attention": "chunked",
    "channel_gated_linear_attention": "chunked",  # a decay of its own for every key channel
    "delta_rule": "chunked",
}


def fastest(operator: str, length: int) -> str:
    """The method that `operator` should use for `length` steps on the default backend.

    Args:
        operator: a key of EXPECTED.
        length: steps along time.
    """
    rows = _table().get(jax.default_backend(), {}).get(operator)
    if rows is None:
        return EXPECTED[operator]
    return next(method for longest, method in rows if longest is None or length <= longest)


@functools.cache
def _table() -> dict[str, dict[str, list[tuple[int | None, str]]]]:
    """backend -> operator -> rows (longest length, method); the last row has no end."""
    return json.loads((pathlib.Path(__file__).parent / "measured.json").read_text())
