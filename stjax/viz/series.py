"""Pictures of forecasts of series: lines over time, errors by step."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from stjax.viz.curves import curves

Picture = UInt8[np.ndarray, "height width 3"]


def day(
    truth: Float[np.ndarray, "w length n"],
    forecasts: Float[np.ndarray, "w horizon n"],
    ahead: Mapping[str, int],
    *,
    nodes: int = 3,
) -> Picture:
    """Truth and forecasts of some nodes over consecutive windows, a panel a node.

    Args:
        truth: windows, each one step after the one before, of context and horizon.
        forecasts: of each window's last steps.
        ahead: name -> index of the step of the horizon that is drawn under it.
        nodes: how many panels; of all nodes evenly spaced ones.
    """
    windows, length, count = truth.shape
    context = length - forecasts.shape[1]
    known = np.concatenate([truth[:-1, 0], truth[-1]])
    panels = []
    for node in np.linspace(0, count - 1, min(nodes, count)).astype(int):
        lines = {"truth": known[:, node]}
        for name, step in ahead.items():
            line = np.full(len(known), np.nan)
            line[context + step : context + step + windows] = forecasts[:, step, node]
            lines[name] = line
        panels.append(curves(lines, title=f"node {node}", axis="step"))
    return np.concatenate(panels)


def errors(
    truth: Float[np.ndarray, "w horizon n f"],
    forecasts: Mapping[str, Float[np.ndarray, "w horizon n f"]],
    axis: str,
) -> Picture:
    """Mean absolute error by step ahead, a line a forecaster; what was not observed left out."""
    by_step = {
        name: np.nanmean(np.abs(forecast - truth), axis=(0, 2, 3))
        for name, forecast in forecasts.items()
    }
    return curves(by_step, title="mean absolute error", axis=axis)
