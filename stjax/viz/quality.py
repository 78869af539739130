"""Pictures of judged video: what was said of each, and said scores against true ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from stjax.viz.frames import Picture, enlarged, spread

_GAP, _LINE, _MARGIN = 3, 14, 40
_PAPER, _INK, _FAINT, _DOT = (255, 255, 255), (20, 20, 20), (170, 170, 170), (0, 114, 178)
_SIDE = 360  # of a scatter plot, in pixels


def asked(
    clips: Float[np.ndarray, "b s f h w c"], lines: Sequence[Sequence[str]], *, columns: int = 12
) -> Picture:
    """A row a video: frames over time, evenly spaced, and lines of text."""
    video = np.asarray(clips, np.float32)
    video = video.reshape(len(video), -1, *video.shape[3:])
    scale = -(-48 // min(video.shape[2:4]))
    times = spread(video.shape[1], columns)
    height, width = (scale * side + _GAP for side in video.shape[2:4])
    block = max(height, max(map(len, lines)) * _LINE) + 2 * _GAP
    font, left = ImageFont.load_default(), 2 * _GAP + len(times) * width
    right = left + _GAP + int(max(font.getlength(text) for texts in lines for text in texts))
    page = Image.new("RGB", (right, len(video) * block), _PAPER)
    pen = ImageDraw.Draw(page)
    for row, (clip, texts) in enumerate(zip(video, lines)):
        top = row * block + _GAP
        for place, time in enumerate(times):
            frame = Image.fromarray(enlarged(clip[time], scale))
            page.paste(frame, (_GAP + place * width, top))
        for number, text in enumerate(texts):
            pen.text((left, top + number * _LINE), text, _INK, font)
    return np.asarray(page)


def scatter(
    true: Float[np.ndarray, " n"],
    predicted: Float[np.ndarray, " n"],
    across: str,
    up: str,
    *,
    top: float = 100.0,
) -> Picture:
    """A dot for each pair, both from 0 to `top`, and the line on which they are alike."""
    page = Image.new("RGB", (_SIDE + 2 * _MARGIN, _SIDE + 2 * _MARGIN), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    x = lambda value: _MARGIN + _SIDE * float(value) / top
    y = lambda value: _MARGIN + _SIDE * (1 - float(value) / top)
    for value in np.linspace(0, top, 6):
        pen.line((x(0), y(value), x(top), y(value)), _FAINT)
        pen.line((x(value), y(0), x(value), y(top)), _FAINT)
        pen.text((x(0) - 5, y(value)), f"{value:g}", _INK, font, anchor="rm")
        pen.text((x(value), y(0) + 5), f"{value:g}", _INK, font, anchor="mt")
    pen.line((x(0), y(0), x(top), y(top)), _INK)
    for a, b in zip(true, predicted):
        pen.ellipse((x(a) - 2, y(b) - 2, x(a) + 2, y(b) + 2), outline=_DOT)
    pen.text((x(top / 2), y(0) + 20), across, _INK, font, anchor="mt")
    pen.text((x(0), y(top) - 16), up, _INK, font, anchor="lm")
    return np.asarray(page)
