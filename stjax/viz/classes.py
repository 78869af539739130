"""Pictures of classified video: clips with what was predicted of them, a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont

from stjax.viz.frames import Picture, Video, enlarged, spread

_GAP, _LINE, _MARGIN = 3, 14, 4
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (130, 130, 130)
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)  # told apart by colour-blind readers too
_BARS = 190  # pixels of the column of probabilities
_CELL = 22  # pixels of a cell of the matrix


def predicted_clips(
    video: Video,
    labels: Int[np.ndarray, " b"],
    probabilities: Float[np.ndarray, "b classes"],
    names: Sequence[str],
    *,
    clips: int = 8,
    columns: int = 8,
    best: int = 3,
) -> Picture:
    """A row a clip: frames over time, the true class, and the likeliest ones with their bars.

    Args:
        video: frames in [0, 1].
        clips: how many of the batch are shown, from the first.
        columns: at most so many frames, evenly spaced.
        best: how many of the likeliest classes are named.
    """
    video = np.asarray(video, np.float32)[:clips]
    scale = -(-56 // min(video.shape[2:4]))
    times = spread(video.shape[1], columns)
    height, width = (scale * side + _GAP for side in video.shape[2:4])
    block = max(height, (best + 1) * _LINE) + 2 * _GAP
    page = Image.new("RGB", (_MARGIN + len(times) * width + _BARS, len(video) * block), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    for row, (clip, label, scores) in enumerate(zip(video, labels, probabilities)):
        top, left = row * block + _GAP, _MARGIN
        for time in times:
            page.paste(Image.fromarray(enlarged(clip[time], scale)), (left, top))
            left += width
        pen.text((left + _GAP, top), names[label], _INK, font)
        for place, k in enumerate(np.argsort(-scores)[:best], start=1):
            colour, y = _RIGHT if k == label else _WRONG, top + place * _LINE
            length = int(60 * scores[k])
            pen.rectangle((left + _GAP, y + 3, left + _GAP + length, y + _LINE - 3), colour)
            pen.text((left + 68, y), f"{scores[k]:.2f} {names[k]}", colour, font)
    return np.asarray(page)


def confusion(
    labels: Int[np.ndarray, " b"],
    predicted: Int[np.ndarray, " b"],
    names: Sequence[str],
    *,
    most: int = 30,
) -> Picture:
    """A matrix: true classes down, predicted ones across, counts, darker the larger their share.

    Args:
        most: classes shown, from the first.
    """
    names = list(names)[:most]
    counts = np.zeros((len(names), len(names)), int)
    inside = (np.asarray(labels) < len(names)) & (np.asarray(predicted) < len(names))
    np.add.at(counts, (np.asarray(labels)[inside], np.asarray(predicted)[inside]), 1)
    font = ImageFont.load_default()
    side = _CELL * len(names)
    margin = 12 + max(int(font.getlength(name)) for name in names)
    page = Image.new("RGB", (margin + side + _GAP, margin + side + _GAP), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_GAP, _GAP), "true \\ predicted", _FAINT, font)
    for row, name in enumerate(names):
        y = margin + row * _CELL
        pen.text((margin - 4, y + _CELL // 2), name, _INK, font, anchor="rm")
        label = Image.new("RGB", (margin - 12, _LINE), _PAPER)
        ImageDraw.Draw(label).text((0, 0), name, _INK, font)
        page.paste(label.rotate(90, expand=True), (margin + row * _CELL + 4, 8))
        total = max(counts[row].sum(), 1)
        for column in range(len(names)):
            share = counts[row, column] / total
            colour = _RIGHT if row == column else _WRONG
            fill = tuple(int(255 - share * (255 - part)) for part in colour)
            x = margin + column * _CELL
            pen.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill)
            if counts[row, column]:
                ink = _PAPER if share > 0.5 else _INK
                middle = (x + _CELL // 2 - 1, y + _CELL // 2)
                pen.text(middle, str(counts[row, column]), ink, font, anchor="mm")
    return np.asarray(page)
