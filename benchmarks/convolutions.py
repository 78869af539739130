"""Convolutions of `stjax.ops.conv` against XLA's own, forward and backward together.

    python -m benchmarks.convolutions
    python -m benchmarks.convolutions --cases "depthwise 7x7, dilation 3"

The shapes are those of sequences, frames and clips inside our models. GFLOP/s count the three
convolutions (output, and the gradients of frames and kernel) alike for all contenders.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import measure
from stjax.ops.conv import conv, depthwise_conv
from stjax.train import flops


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution: kernel's shape, shapes of frames, and what computes it."""

    kernel: tuple[int, ...]
    frames: tuple[tuple[int, ...], ...]
    contenders: Mapping[str, Callable[..., Any]]


def xla(x, kernel, groups=1, dilation=1):
    """Stride 1, zero padding that keeps the size, channels last, in as many axes as x has."""
    axes = "DHW"[5 - x.ndim :]
    return lax.conv_general_dilated(
        x, kernel, (1,) * len(axes), "SAME", rhs_dilation=(dilation,) * len(axes),
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"), feature_group_count=groups,
    )


def xla_depthwise(x, kernel, dilation=1):
    return xla(x, kernel[..., None, :], x.shape[-1], dilation)


def _dense(window, *frames):
    return Case(window, frames, {"xla": xla, "stjax": conv})


def _depthwise(window, dilation, *frames):
    ways = {
        method: functools.partial(depthwise_conv, dilation=dilation, method=method)
        for method in ("shifted", "grouped")
    }
    return Case(window, frames, {"xla": functools.partial(xla_depthwise, dilation=dilation)} | ways)


CASES = {
    "dense 3x3": _dense((3, 3), (48, 32, 32, 32), (48, 8, 8, 64), (16, 16, 16, 256)),
    "dense 5x5": _dense((5, 5), (16, 16, 16, 64)),
    "dense 3x3x3": _dense((3, 3, 3), (2, 8, 16, 16, 32)),
    "depthwise 3": _depthwise((3,), 1, (4, 1024, 256)),
    "depthwise 3x3": _depthwise((3, 3), 1, (16, 16, 16, 256)),
    "depthwise 5x5": _depthwise((5, 5), 1, (16, 16, 16, 256)),
    "depthwise 7x7, dilation 3": _depthwise((7, 7), 3, (16, 16, 16, 256), (4, 32, 32, 64)),
    "depthwise 3x3x3": _depthwise((3, 3, 3), 1, (2, 8, 16, 16, 64)),
}


def run(name: str, rounds: int, batch: int | None = None) -> list[dict]:
    case, rows = CASES[name], []
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    for shape in case.frames:
        shape = (batch or shape[0], *shape[1:])
        channels = shape[-1:]
        kernel = normal(*case.kernel, *(channels * 2 if "dense" in name else channels))
        args = (normal(*shape), kernel), normal(*shape)
        programs = {
            contender: measure.compiled(measure.forward_and_backward(function), *args)
            for contender, function in case.contenders.items()
        }
        measure.agree(programs, args, "xla")
        # Twice the forward convolution's work goes into the gradients.
        count = 3 * flops.count(case.contenders["xla"], *args[0])
        for contender, row in measure.race(programs, args, "xla", rounds).items():
            key = {"case": name, "frames": "x".join(map(str, shape)), "contender": contender}
            rows.append(key | row | {"gflops": count / row["ms"] / 1e6})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, help="frames at once; the case's own by default")
    arguments = parser.parse_args(argv)
    environment, rows, panels = measure.begin(), [], {}
    for name in arguments.cases:
        new = run(name, arguments.rounds, arguments.batch)
        measure.show(new)
        rows += new
        panels[name] = {
            f"{row['contender']} {row['frames']}": (row["ms"], row["ms_quartiles"]) for row in new
        }
    path = measure.write(
        "convolutions", environment, rows, arguments.out, baseline="xla", rounds=arguments.rounds
    )
    measure.plot_bars(path.with_suffix(".png"), panels, "ms, forward and backward")


if __name__ == "__main__":
    main()
