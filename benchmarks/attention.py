"""What a mask saves: attention's methods against dense, and how radial attention's cost grows.

    python -m benchmarks.attention                # masks, growth; on a GPU the published sizes too
    python -m benchmarks.attention --parts growth --longest 16384

"masks": every method that takes a mask, forward and backward, against dense, on a clip of 1024
tokens.

"growth": full and radial attention (Li et al. 2025, arXiv 2506.19852) by the same kernel, forward
and backward, on ever longer clips: ms as far as `--longest`, and blocks that are not empty up to
64k tokens, each with the exponent p of the closest length^p, over all lengths and over the last
three (n log n tends to 1, but short clips are nearly dense). "radial, Eq. 4" is the paper's mask
token by token, whose thin diagonals touch every block; "radial" is the released code's, in whole
blocks, of 256 tokens a frame, "smaller frames" of 128, "finer" of 128 in blocks of 32 (counted, as
all are, in areas of a 128-block).

"published" (GPUs): the forward pass at that paper's token counts against cuDNN's dense attention,
in bfloat16.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from stjax.ops.attention import (
    EMPTY,
    METHODS,
    Causal,
    FrameCausal,
    Full,
    Mask,
    Neighbourhood,
    Radial,
    RadialBlocks,
    SlidingWindow,
    Windows,
    attention,
)

# Clips of 16 x 16 tokens a frame.
TOKENS = 256
CLIP = (4, 16, 16)
MASKS: Mapping[str, Mask] = {
    "full": Full(),
    "causal": Causal(),
    "frame by frame": FrameCausal(TOKENS),
    "128 before": SlidingWindow(127),
    "windows of 4x8x8": Windows(CLIP, (4, 8, 8)),
    "neighbours 3x7x7": Neighbourhood(CLIP, (3, 7, 7)),
    "radial": Radial(TOKENS),
}
FRAMES = (4, 8, 16, 32, 64, 128, 256)
# Tokens a frame, frames, decay and sink of the released scripts.
PUBLISHED: Mapping[str, Mask] = {
    "Wan2.1, 69 frames": RadialBlocks(3840, 18, decay=0.2),
    "HunyuanVideo, 117 frames": RadialBlocks(3840, 30, decay=0.95, model="hunyuan"),
    "HunyuanVideo, 509 frames": RadialBlocks(3600, 128, model="hunyuan"),
}
PARTS = ("masks", "growth", "published")


def draw(tokens: int, heads: int, features: int, dtype) -> tuple[jax.Array, ...]:
    """q, k and v."""
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, (1, tokens, heads, features), dtype) for key in keys)


def methods(arrays: Sequence[jax.Array], mask: Mask) -> dict:
    """Method -> attention by it, of those that have the mask on this backend."""
    ways = {
        method: functools.partial(attention, mask=mask, method=method)
        for method in METHODS if method != "auto"
    }
    return measure.accepted(ways, arrays)


def of_masks(arguments, environment) -> list[dict]:
    dtype, rows = _dtype(environment), []
    arrays = draw(np.prod(CLIP), arguments.heads, arguments.features, dtype)
    args = arrays, jnp.ones_like(arrays[2])
    for name, mask in MASKS.items():
        programs = {
            method: measure.compiled(measure.forward_and_backward(run), *args)
            for method, run in methods(arrays, mask).items()
        }
        measure.agree(programs, args, "dense", 1e-4 if dtype == jnp.float32 else 3e-2)
        timed = measure.race(programs, args, "dense", arguments.rounds)
        rows += [{"mask": name, "method": method} | row for method, row in timed.items()]
    return rows


def of_growth(arguments, environment) -> list[dict]:
    """One row a length and contender; ms is None past `--longest`, of full attention past half."""
    rows = []
    for frames in FRAMES:
        tokens = frames * TOKENS
        masks = {
            "full": Full(),
            "radial": RadialBlocks(TOKENS, frames),
            "radial, smaller frames": RadialBlocks(TOKENS // 2, 2 * frames),
            "radial, finer": RadialBlocks(TOKENS // 2, 2 * frames, block=32),
            "radial, Eq. 4": Radial(TOKENS),
        }
        counts = {name: _blocks(mask, tokens) for name, mask in masks.items()}
        timed = {}
        if tokens <= arguments.longest:
            arrays = draw(tokens, arguments.heads, arguments.features, _dtype(environment))
            args = arrays, jnp.ones_like(arrays[2])
            names = ["radial", "radial, smaller frames"]
            names += ["full"] if tokens <= arguments.longest // 2 else []
            programs = {
                name: measure.compiled(
                    measure.forward_and_backward(_best(methods(arrays, masks[name]))), *args
                )
                for name in names
            }
            timed = measure.race(programs, args, "radial", arguments.rounds)
        rows += [
            {"contender": name, "tokens": tokens, "blocks": count} | timed.get(name, {"ms": None})
            for name, count in counts.items()
        ]
    return rows


def of_published(arguments, environment) -> list[dict]:
    rows = []
    for name, mask in PUBLISHED.items():
        tokens = mask.tokens * mask.frames
        arrays = draw(tokens, arguments.heads, 128, jnp.bfloat16)
        contenders = {"cuDNN, dense": functools.partial(attention, method="cudnn")} | {
            f"radial, {method}": run
            for method, run in methods(arrays, mask).items() if method != "dense"
        }
        programs = {who: measure.compiled(run, *arrays) for who, run in contenders.items()}
        timed = measure.race(programs, arrays, "cuDNN, dense", arguments.rounds)
        share = _blocks(mask, tokens) / _blocks(Full(), tokens)
        rows += [
            {"clip": name, "tokens": tokens, "contender": who}
            | row | {"blocks": 1.0 if "dense" in who else share}
            for who, row in timed.items()
        ]
    return rows


def exponents(rows: Sequence[dict]) -> list[dict]:
    """p of ms ~ tokens^p and of blocks ~ tokens^p, for every contender."""
    fits = []
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        timed = [row for row in own if row["ms"] is not None]
        fits.append(
            {
                "contender": name,
                "ms": _exponent(timed, "ms"), "ms, last": _exponent(timed[-3:], "ms"),
                "blocks": _exponent(own, "blocks"), "blocks, last": _exponent(own[-3:], "blocks"),
            }
        )
    return fits


def _exponent(rows, column):
    return measure.exponent([row["tokens"] for row in rows], [row[column] for row in rows])


def _best(found):
    """A kernel if there is one, else the blocks."""
    return next(found[method] for method in ("cudnn", "pallas", "chunked") if method in found)


def _blocks(mask, tokens):
    """What a kernel visits, in areas of 128 x 128, in the mask's own blocks where it has some."""
    block = getattr(mask, "block", 128)
    visited = np.sum(mask.blocks(tokens, tokens, block, block) != EMPTY)
    return float(visited * (block / 128) ** 2)


def _dtype(environment):
    return jnp.float32 if environment["backend"] == "cpu" else jnp.bfloat16


def main(argv: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--longest", type=int, help="tokens of the longest clip that is timed")
    parser.add_argument("--heads", type=int)
    parser.add_argument("--features", type=int, default=64, help="of a head")
    arguments = parser.parse_args(argv)
    environment = measure.begin()
    on_gpu = environment["backend"] == "gpu"
    arguments.parts = arguments.parts or (PARTS if on_gpu else PARTS[:2])
    arguments.longest = arguments.longest or (65536 if on_gpu else 8192)
    arguments.heads = arguments.heads or (24 if on_gpu else 2)
    parts = {"masks": of_masks, "growth": of_growth, "published": of_published}
    for part in arguments.parts:
        rows = parts[part](arguments, environment)
        fits = exponents(rows) if part == "growth" else []
        path = measure.write(
            f"attention-{part}", environment, rows, arguments.out, rounds=arguments.rounds,
            heads=arguments.heads, exponents=fits,
        )
        measure.show(fits)
        if part == "growth":
            measure.plot_lines(path.with_suffix(".png"), _lines(rows), "tokens", "")
        else:
            measure.plot_bars(path.with_suffix(".png"), _bars(rows), "ms")


def _lines(rows):
    panels = {"ms": {}, "blocks": {}}
    for row in rows:
        for column, lines in panels.items():
            if row[column] is not None:
                xs, ys = lines.setdefault(row["contender"], ([], []))
                xs.append(row["tokens"])
                ys.append(row[column])
    return panels


def _bars(rows):
    panels = {}
    for row in rows:
        panel, bar = [str(value) for value in row.values() if isinstance(value, str)]
        panels.setdefault(panel, {})[bar] = (row["ms"], row["ms_quartiles"])
    return panels


if __name__ == "__main__":
    main()
