"""Pictures of predicted fields: values as colours, errors in blue and red."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from stjax.viz import frames

Fields = Float[np.ndarray, "b t h w"]

# viridis, and blue over white to red, at equal distances.
_VALUES = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_ERRORS = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))


def coloured(
    values: Float[np.ndarray, "..."], low: float, high: float, colours: Sequence = _VALUES
) -> Float[np.ndarray, "... 3"]:
    """Values from `low` to `high` as colours in [0, 1]; others as the nearest of them."""
    share = (values - low) / max(high - low, 1e-12)
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(share, at, channel) for channel in zip(*colours)], -1) / 255


def pictures(
    context: Fields, truth: Fields, prediction: Fields, *, columns: int = 8
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """A sheet and an animation of one field: context, truth, prediction, prediction less truth.

    Values span the truth's range, errors twice their root mean square to either side; over each
    frame of errors stands its root mean square, in the field's units.

    Args:
        columns: at most so many frames in a row of the sheet, evenly spaced ones.
    """
    context, truth, prediction = (np.asarray(x, np.float32) for x in (context, truth, prediction))
    error = prediction - truth
    low, high, far = truth.min(), truth.max(), 2 * np.sqrt(np.mean(error**2))
    shown = [coloured(x, low, high) for x in (context, truth, prediction)]
    past, future, wrong = (*shown[:2], coloured(error, -far, far, _ERRORS))
    first, later = (frames.spread(x.shape[1], columns) for x in (context, truth))
    numbered = lambda places, start: [str(place + start) for place in places]
    blocks = [
        [
            ("context", past[k, first], numbered(first, 1)),
            ("truth", future[k, later], numbered(later, 1 + context.shape[1])),
            ("prediction", shown[2][k, later], None),
            ("error", wrong[k, later], [f"{np.sqrt(np.mean(x**2)):.3g}" for x in error[k, later]]),
        ]
        for k in range(len(truth))
    ]
    rows: list[dict[str, Any]] = [
        {"truth": future[k], "prediction": shown[2][k], "error": wrong[k]}
        for k in range(len(truth))
    ]
    captions = [f"{k + 1} ahead" for k in range(truth.shape[1])]
    return {"sheet": frames.strips(blocks), "clip": frames.moving(rows, captions)}
