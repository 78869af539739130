"""Pictures of trajectories: variables over time as an image, errors by step."""

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from stjax.viz.curves import curves

Picture = UInt8[np.ndarray, "height width 3"]

# From low to high: blue, white, vermilion, told apart by colour-blind readers too.
_COLOURS = np.array([[0, 76, 140], [0, 114, 178], [255, 255, 255], [213, 94, 0], [120, 40, 0]])
_WIDEST = 2.5  # deviations at which the colours end
_MARGIN, _LINE, _GAP = 76, 14, 3
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def diverging(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "... 3"]:
    """Colours of values in deviations from the mean: blue below, white at it, vermilion above."""
    places = np.clip((np.nan_to_num(values) / _WIDEST + 1) / 2, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(places.astype(int), len(_COLOURS) - 2)
    share = (places - low)[..., None]
    return np.uint8(np.rint((1 - share) * _COLOURS[low] + share * _COLOURS[low + 1]))


def rollouts(
    truth: Float[np.ndarray, "b t n"],
    prediction: Float[np.ndarray, "b t n"],
    valid: Int[np.ndarray, "b"],
    *,
    trajectories: int = 3,
) -> Picture:
    """Truth, prediction and difference: variables up and down, time from left to right.

    Args:
        truth, prediction: in deviations from the mean.
        valid: steps that each is valid for; a line is drawn after them.
        trajectories: how many of the batch are shown, evenly spaced by how long they are valid.
    """
    count = min(trajectories, len(truth))
    shown = np.argsort(-valid, kind="stable")[
        np.rint(np.linspace(0, len(truth) - 1, count)).astype(int)
    ]
    (_, steps, variables), across = truth.shape, max(1, -(-600 // truth.shape[1]))
    tall = max(1, -(-72 // variables))
    height, width = tall * variables, across * steps
    block = _LINE + 3 * (height + _GAP) + _GAP
    page = Image.new("RGB", (_MARGIN + width, count * block), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    for place, k in enumerate(shown):
        top = place * block
        pen.text((_MARGIN, top), f"valid for {valid[k]} of {steps} steps", _INK, font)
        top += _LINE
        rows = {
            "truth": truth[k], "prediction": prediction[k], "difference": prediction[k] - truth[k]
        }
        for name, values in rows.items():
            image = diverging(values.T).repeat(tall, 0).repeat(across, 1)
            page.paste(Image.fromarray(image), (_MARGIN, top))
            at = _MARGIN + across * int(valid[k])
            pen.line([(at, top), (at, top + height - 1)], _INK)
            pen.text((_GAP, top + (height - _LINE) // 2), name, _INK, font)
            top += height + _GAP
    return np.asarray(page)


def errors(error: Float[np.ndarray, "b t"], unit: float, threshold: float) -> Picture:
    """The quartiles over trajectories of the error by step, and the threshold of validity.

    Args:
        unit: Lyapunov times of a step.
    """
    quartiles = np.quantile(np.nan_to_num(error, posinf=1e6), (0.75, 0.5, 0.25), axis=0)
    lines = dict(zip(("worst quarter", "median", "best quarter"), quartiles))
    return curves(
        {**lines, "threshold": np.full(error.shape[1], threshold)},
        title="error in deviations of the training series",
        axis=f"steps of {unit:.3g} Lyapunov times",
    )
