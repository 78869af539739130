"""Lines over a common axis: error against horizon, loss against step. pillow only."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 150, 30, 36  # margins
_INK, _RULE, _SHADE = (20, 20, 20), (225, 225, 225), (250, 228, 214)
# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def curves(
    lines: Mapping[str, Float[np.ndarray, " n"]],
    *,
    title: str = "",
    axis: str = "frame",
    first: int = 1,
    marked: Iterable[int] = (),
) -> UInt8[np.ndarray, "360 640 3"]:
    """One line a name, labelled at its end, from 0 (or the least value below it) up.

    Args:
        lines: values at first, first + 1, ...; what is not finite is left out.
        title: what is drawn, with its unit.
        axis: what is counted along the axis.
        first: the first value's place on the axis.
        marked: places on the axis that are shaded.

    Raises:
        ValueError: nothing finite to draw.
    """
    lines = {name: np.asarray(values, np.float64) for name, values in lines.items()}
    finite = [values[np.isfinite(values)] for values in lines.values()]
    if not any(len(values) for values in finite):
        raise ValueError(f"no finite values in {list(lines)}")
    last = first + max(map(len, lines.values())) - 1
    values = np.concatenate([[0.0], *finite])
    ticks = _ticks(values.min(), values.max())
    low, high = ticks[0], ticks[-1]
    across = lambda x: _LEFT + (x - first) / max(last - first, 1) * (_WIDTH - _LEFT - _RIGHT)
    up = lambda y: _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    page = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    write = lambda x, y, text, anchor, colour=_INK: pen.text(
        (x, y), text, colour, ImageFont.load_default(), anchor
    )
    for x in marked:
        left, right = (across(min(max(x + half, first), last)) for half in (-0.5, 0.5))
        pen.rectangle([left, up(high), right, up(low)], _SHADE)
    write(_LEFT, _TOP // 2, title, "lm")
    write(_WIDTH - _RIGHT, _HEIGHT - 6, axis, "rs")
    for y in ticks:
        pen.line([(_LEFT, up(y)), (_WIDTH - _RIGHT, up(y))], _RULE)
        write(_LEFT - 6, up(y), f"{y:.4g}", "rm")
    for x in range(first, last + 1, -(-(last + 1 - first) // 10)):
        write(across(x), _HEIGHT - _BOTTOM + 4, str(x), "mt")
    labelled = -np.inf
    # From the top down, so that labels of lines that end close together can be pushed apart.
    ends = {name: v[np.isfinite(v)][-1] for name, v in lines.items() if np.isfinite(v).any()}
    for name in sorted(ends, key=ends.get, reverse=True):
        colour = _COLOURS[list(lines).index(name) % len(_COLOURS)]
        points = [(across(first + k), up(v)) for k, v in enumerate(lines[name]) if np.isfinite(v)]
        pen.line(points, colour, width=2)
        labelled = max(points[-1][1], labelled + 13)
        write(points[-1][0] + 6, labelled, name, "lm", colour)
    return np.asarray(page)


def _ticks(low: float, high: float) -> np.ndarray:
    """Four to nine round numbers from `low` or below it to `high` or above it."""
    span = (high - low) or 1.0
    unit = 10.0 ** np.floor(np.log10(span / 4))
    step = max(factor * unit for factor in (1, 2, 5) if factor * unit <= span / 4)
    return step * np.arange(np.floor(low / step), np.ceil((low + span) / step) + 1)
