"""Which way through a recurrence is the fastest, at which length? (And through attention.)

    python -m benchmarks.recurrences                  # linear_recurrence
    python -m benchmarks.recurrences --operators selective_scan delta_rule --lengths 64 1024
    python -m benchmarks.recurrences --choose         # what "auto" stands for, from the results

Forward and backward together, under jit, at the shapes that models have. "published" is what
published JAX code does: `lax.associative_scan` over (decay, input) pairs, the decay laid out along
time. "definition" is the naive loop with JAX's own gradient. Methods that a backend does not have
are left out.
"""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import measure
from stjax.ops.attention import attention
from stjax.ops.delta_rule import delta_rule, naive_delta_rule
from stjax.ops.gated_linear_attention import (
    gated_linear_attention,
    naive_gated_linear_attention,
)
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.selective_scan import selective_scan

LENGTHS = (16, 64, 256, 1024, 4096)
TABLE = pathlib.Path(__file__).parents[1] / "stjax" / "ops" / "measured.json"

Table = dict[str, dict[str, list[tuple[int | None, str]]]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One operator at one shape.

    Attributes:
        shape: its name in tables.
        arguments: `(rng, batch, length)` -> the operator's arrays.
        methods: method -> function of those arrays; these are what "auto" chooses from.
        peers: other code that computes the same.
        baseline: what the ratios are to.
    """

    shape: str
    arguments: Callable[[np.random.Generator, int, int], Sequence[Any]]
    methods: Mapping[str, Callable[..., Any]]
    peers: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    baseline: str = "sequential"


def convs5(rng, batch, length):
    """A constant complex decay for each channel of 8 x 8 maps: HiPPO's real part, usual steps."""
    step = rng.uniform(1e-3, 1e-1, 64)
    decay = np.exp(step * (-0.5 + 1j * rng.uniform(-50, 0, 64)))
    inputs = _normal(rng, 2, batch, length, 8, 8, 64)
    return np.complex64(decay), np.complex64(inputs[0] + 1j * inputs[1])


def mamba(rng, batch, length):
    """A real decay of every step, channel and state: 256 channels of 16 states."""
    step = rng.uniform(1e-3, 1e-1, (batch, length, 256, 1))
    decay = np.exp(-step * np.arange(1, 17))
    return np.float32(decay), _normal(rng, batch, length, 256, 16)


def published(decay, inputs):
    """`lax.associative_scan` as published code calls it: one binary operator mapped over time."""
    if decay.ndim == 1:
        decay = decay * jnp.ones((inputs.shape[1], *decay.shape))
        join = lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1])
        states = lax.associative_scan(jax.vmap(join), (decay, jnp.moveaxis(inputs, 1, 0)))[1]
        return jnp.moveaxis(states, 0, 1)
    join = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
    return lax.associative_scan(join, (decay, inputs), axis=1)[1]


def mamba_layer(rng, batch, length):
    """256 channels of 16 states, one group."""
    step = rng.uniform(1e-3, 1e-1, (batch, length, 256))
    rates = -np.tile(np.arange(1.0, 17.0), (256, 1))
    x, B, C = (_normal(rng, batch, length, n) for n in (256, 16, 16))
    return x, np.float32(step), np.float32(rates), B, C


def published_selective_scan(x, step, rates, B, C):
    decay = jnp.exp(step[..., None] * rates)
    states = published(decay, (step * x)[..., None] * B[:, :, None])
    return jnp.einsum("btdn,btn->btd", states, C)


def attention_heads(rng, batch, length, decays=()):
    """Two heads of 64 keys and 64 values; keys of length one, decays of `decays` per head."""
    q, k, v = (_normal(rng, batch, length, 2, 64) for _ in range(3))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    log_decay = -rng.uniform(1e-3, 1e-1, (batch, length, 2, *decays))
    return q, k, v, np.float32(log_decay)


def delta_heads(rng, batch, length):
    """The same, and strengths of writing between 0 and 1."""
    q, k, v, log_decay = attention_heads(rng, batch, length)
    beta = rng.uniform(0, 1, log_decay.shape)
    return q, k, v, np.float32(beta), log_decay


def ways(operator: Callable[..., Any], *methods: str) -> dict[str, Callable[..., Any]]:
    return {method: functools.partial(operator, method=method) for method in methods}


def _normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def tokens(rng, batch, length):
    """Two heads of 64."""
    return tuple(_normal(rng, batch, length, 2, 64) for _ in range(3))


METHODS = ("sequential", "associative", "chunked")
_LINEAR = ways(linear_recurrence, *METHODS, "pallas"), {"published": published}
_GATED = ways(gated_linear_attention, *METHODS), {"definition": naive_gated_linear_attention}

# The names are those of `stjax.ops.measured.EXPECTED`.
OPERATORS = {
    "linear_recurrence": (
        Case("ConvS5's 8x8x64, complex", convs5, *_LINEAR),
        Case("Mamba's 256x16, varying", mamba, *_LINEAR),
    ),
    "selective_scan": (
        Case(
            "Mamba's 256x16", mamba_layer, ways(selective_scan, *METHODS, "pallas"),
            {"published": published_selective_scan},
        ),
    ),
    "gated_linear_attention": (Case("2 heads of 64x64", attention_heads, *_GATED),),
    "channel_gated_linear_attention": (
        Case("2 heads of 64x64", functools.partial(attention_heads, decays=(64,)), *_GATED),
    ),
    "delta_rule": (
        Case(
            "2 heads of 64x64", delta_heads, ways(delta_rule, *METHODS),
            {"definition": naive_delta_rule},
        ),
    ),
    "attention": (
        Case("2 heads of 64", tokens, ways(attention, "dense", "chunked"), baseline="dense"),
    ),
}


def run(case: Case, lengths: Sequence[int], rounds: int, batch: int, copy: float) -> list[dict]:
    """Rows of one case. Methods that give other numbers than the baseline are an error."""
    rows = []
    for length in lengths:
        arrays = jax.device_put(tuple(case.arguments(np.random.default_rng(0), batch, length)))
        contenders = {**measure.accepted(case.methods, arrays), **case.peers}
        args = arrays, measure.ones_like_output(contenders[case.baseline], arrays)
        programs = {
            name: measure.compiled(measure.forward_and_backward(function), *args)
            for name, function in contenders.items()
        }
        measure.agree(programs, args, case.baseline)
        timed = measure.race(programs, args, case.baseline, rounds)
        # Every argument, and every result, has to be moved once at least.
        traffic = 2 * sum(x.nbytes for x in jax.tree.leaves(args))
        for name, row in timed.items():
            key = {"shape": case.shape, "length": length, "method": name}
            share = traffic / (1e-3 * row["ms"] * copy)
            rows.append(
                key | {"ours": name in case.methods} | row | {"of_copy_bandwidth": share}
            )
        times = ", ".join(f"{name} {row['ms']:.3g} ms" for name, row in timed.items())
        print(f"  {case.shape}, {length} steps: {times}", flush=True)
    return rows


def exponents(rows: Sequence[dict]) -> list[dict]:
    """p of ms ~ length^p, for every shape and method."""
    key = lambda row: (row["shape"], row["method"])
    return [
        {"shape": shape, "method": method, "exponent": _exponent(list(group))}
        for (shape, method), group in itertools.groupby(sorted(rows, key=key), key)
    ]


def _exponent(rows):
    return measure.exponent([row["length"] for row in rows], [row["ms"] for row in rows])


def choices(rows: Sequence[dict]) -> list[tuple[int | None, str]]:
    """(longest length, method) of the fastest, as `stjax.ops.measured` reads it.

    Lengths that were not measured go with the nearest one, by ratio, that was. Over shapes and
    devices the geometric mean decides.
    """
    times: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row["ours"]:
            times.setdefault(row["length"], {}).setdefault(row["method"], []).append(row["ms"])
    mean = lambda values: sum(map(math.log, values)) / len(values)
    fastest = {
        length: min(methods, key=lambda method: mean(methods[method]))
        for length, methods in sorted(times.items())
    }
    table: list[tuple[int | None, str]] = []
    for (length, method), after in itertools.zip_longest(fastest.items(), list(fastest)[1:]):
        if table and table[-1][1] == method:
            table.pop()
        table.append((None if after is None else math.isqrt(length * after), method))
    return table


def table(results: pathlib.Path) -> Table:
    """backend -> operator -> choices, from every file of the folder."""
    rows: dict[str, dict[str, list[dict]]] = {}
    for path in sorted(results.glob("recurrences-*.json")):
        result = json.loads(path.read_text())
        operators = rows.setdefault(result["backend"], {})
        operators.setdefault(result["operator"], []).extend(result["rows"])
    return {
        backend: {operator: choices(rows) for operator, rows in sorted(operators.items())}
        for backend, operators in rows.items()
    }


def choose(results: pathlib.Path, path: pathlib.Path = TABLE) -> None:
    """Rewrites what was measured on the default backend in `stjax/ops/measured.json`."""
    backend = jax.default_backend()
    chosen = json.loads(path.read_text())
    chosen.setdefault(backend, {}).update(table(results).get(backend, {}))
    operators = lambda rows: ",\n".join(
        f'    "{operator}": {json.dumps(choices)}' for operator, choices in sorted(rows.items())
    )
    backends = ",\n".join(
        f'  "{name}": {{\n{operators(rows)}\n  }}' for name, rows in sorted(chosen.items())
    )
    path.write_text(f"{{\n{backends}\n}}\n")
    print(path.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument(
        "--operators", nargs="+", choices=OPERATORS, default=["linear_recurrence"]
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--batch", type=int, help="clips at once (1; 8 on accelerators)")
    parser.add_argument("--choose", action="store_true", help="rewrite the table, time nothing")
    arguments = parser.parse_args(argv)
    if arguments.choose:
        choose(arguments.out)
        return
    environment = measure.begin()
    batch = arguments.batch or (1 if environment["backend"] == "cpu" else 8)
    copy = measure.copy_bandwidth()
    for operator in arguments.operators:
        cases, rows = OPERATORS[operator], []
        for case in cases:
            rows += run(case, arguments.lengths, arguments.rounds, batch, copy)
        fits = exponents(rows)
        path = measure.write(
            f"recurrences-{operator}", environment, rows, arguments.out, operator=operator,
            baseline=cases[0].baseline, rounds=arguments.rounds, batch=batch,
            copy_bytes_per_second=copy, exponents=fits,
        )
        measure.show(fits)
        measure.plot_lines(path.with_suffix(".png"), _panels(rows), "steps", "ms")


def _panels(rows):
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    for row in rows:
        xs, ys = panels.setdefault(row["shape"], {}).setdefault(row["method"], ([], []))
        xs.append(row["length"])
        ys.append(row["ms"])
    return panels


if __name__ == "__main__":
    main()
