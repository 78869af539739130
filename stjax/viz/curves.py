"""Lines over a common axis (error against horizon, loss against step), and points. pillow only."""

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
    up = _upwards(low, high)
    page, pen, write = _page(title, axis)
    for x in marked:
        left, right = (across(min(max(x + half, first), last)) for half in (-0.5, 0.5))
        pen.rectangle([left, up(high), right, up(low)], _SHADE)
    _rules(pen, write, {y: up(y) for y in ticks})
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


def scatter(
    points: Mapping[str, tuple[float, float]], *, title: str = "", axis: str = ""
) -> UInt8[np.ndarray, "360 640 3"]:
    """A labelled dot a name at (x, y): x on a logarithmic axis, y on a linear one.

    Args:
        points: name -> (x, y), x above 0.
        title: what is drawn upwards, with its unit.
        axis: what is drawn along the axis.

    Raises:
        ValueError: no points, or one that is not finite or has x <= 0.
    """
    values = np.asarray(list(points.values()), np.float64).reshape(-1, 2)
    if not len(values) or not np.isfinite(values).all() or values[:, 0].min() <= 0:
        raise ValueError(f"points: wanted finite (x > 0, y), one at least: {dict(points)}")
    logarithms = np.log10(values[:, 0])
    decades = logarithms.min() - 0.1, logarithms.max() + 0.1
    ticks = _ticks(values[:, 1].min(), values[:, 1].max())
    width = _WIDTH - _LEFT - _RIGHT
    across = lambda x: _LEFT + (np.log10(x) - decades[0]) / np.ptp(decades) * width
    up = _upwards(ticks[0], ticks[-1])
    page, pen, write = _page(title, axis)
    _rules(pen, write, {y: up(y) for y in ticks})
    for decade in range(int(np.floor(decades[0])), int(np.ceil(decades[1]))):
        for x in 10.0**decade * np.array([1, 2, 5]):
            if decades[0] <= np.log10(x) <= decades[1]:
                write(across(x), _HEIGHT - _BOTTOM + 4, f"{x:.4g}", "mt")
    taken = [(across(x), up(y)) for x, y in points.values()]
    for k, (name, (x, y)) in enumerate(points.items()):
        colour, (left, height) = _COLOURS[k % len(_COLOURS)], (across(x), up(y))
        pen.ellipse([left - 3, height - 3, left + 3, height + 3], colour)
        start, end = left + 7, left + 7 + 6 * len(name)
        label = _beside(height, [at for x, at in taken if start - 5 < x < end])
        taken += [(x, label) for x in np.arange(start, end, 4)]
        write(start, label, name, "lm", colour)
    return np.asarray(page)


def _page(title: str, axis: str):
    """An empty page with its title and its axis' name, a pen, and a way to write."""
    page = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    write = lambda x, y, text, anchor, colour=_INK: pen.text(
        (x, y), text, colour, ImageFont.load_default(), anchor
    )
    write(_LEFT, _TOP // 2, title, "lm")
    write(_WIDTH - _RIGHT, _HEIGHT - 6, axis, "rs")
    return page, pen, write


def _beside(height: float, taken: list[float]) -> float:
    """The height nearest to this one at which a label covers nothing."""
    heights = height + 5 * np.arange(-60, 60)
    others = [other for other in taken if other != height]
    free = [at for at in heights if all(abs(at - other) >= 10 for other in others)]
    return min(free, key=lambda at: abs(at - height))


def _upwards(low: float, high: float):
    return lambda y: _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _rules(pen, write, ticks: Mapping[float, float]) -> None:
    """A line and a number at each tick, value -> height on the page."""
    for value, height in ticks.items():
        pen.line([(_LEFT, height), (_WIDTH - _RIGHT, height)], _RULE)
        write(_LEFT - 6, height, f"{value:.4g}", "rm")


def _ticks(low: float, high: float) -> np.ndarray:
    """Four to nine round numbers from `low` or below it to `high` or above it."""
    span = (high - low) or 1.0
    unit = 10.0 ** np.floor(np.log10(span / 4))
    step = max(factor * unit for factor in (1, 2, 5) if factor * unit <= span / 4)
    return step * np.arange(np.floor(low / step), np.ceil((low + span) / step) + 1)
