"""Operations of a function, counted from its jaxpr.

XLA's own count takes the body of a loop once; this one multiplies by the trips of a scan.
"""

import math
from typing import Any

import jax


def count(function: Any, *args: Any) -> int:
    """Floating-point operations (two a multiply-add) of matmuls and convolutions in `function`.

    Args:
        function: traced with `args`, which may be `jax.ShapeDtypeStruct`s.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _matmul(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += _one_branch(params)
        else:
            total += _times(name, params) * sum(_count(inner) for inner in _inner(params))
    return total


def _one_branch(params: dict[str, Any]) -> int:
    """Of alternatives by platform, what runs where none is named; of others, the most."""
    counts = [_count(branch.jaxpr) for branch in params["branches"]]
    platforms = params.get("branches_platforms") or ()
    return counts[platforms.index(None)] if None in platforms else max(counts)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often what is within an operation runs: trips of a scan, devices of a `shard_map`."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _inner(params: dict[str, Any]):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr"):  # a ClosedJaxpr
                yield item.jaxpr
            elif hasattr(item, "eqns"):
                yield item


def _matmul(equation: Any) -> int:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    inner = math.prod(left[axis] for axis in contracting)
    return 2 * math.prod(equation.outvars[0].aval.shape) * inner * _complex(equation)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    spec = equation.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[axis] for axis in spec[2:])
    per_output = kernel[spec[1]] * taps / math.prod(equation.params["lhs_dilation"])
    out = math.prod(equation.outvars[0].aval.shape)
    return int(2 * out * per_output / equation.params["batch_group_count"] * _complex(equation))


def _complex(equation: Any) -> int:
    return 4 if equation.outvars[0].aval.dtype.kind == "c" else 1
