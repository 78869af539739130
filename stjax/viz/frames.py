"""Pictures of predicted video: a sheet of frames over time, and a moving one.

Pictures are arrays (height, width, 3) uint8, moving ones (time, height, width, 3), so that any
log takes them; `save` writes them. numpy and pillow only.
"""

import os
import pathlib

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Video = Float[np.ndarray, "b t h w c"]
Picture = UInt8[np.ndarray, "height width 3"]

_GAP = 3  # pixels between frames
_LINE = 14  # pixels of a line of text
_MARGIN = 76  # pixels for the names of the rows
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (130, 130, 130)


def sheet(
    context: Video,
    truth: Video,
    prediction: Video,
    *,
    sequences: int = 4,
    columns: int = 10,
    scale: int | None = None,
) -> Picture:
    """Rows of context, truth, prediction and |difference| over time, one block a sequence.

    Args:
        context: frames given, in [0, 1]; 1 or 3 channels, others are shown by their mean.
        truth, prediction: frames to predict and frames predicted.
        sequences: how many of the batch are shown, from the first.
        columns: at most so many frames in a row; of more, evenly spaced ones, ends included.
        scale: whole factor of enlargement, nearest pixel; None: to 48 pixels at least.

    Raises:
        ValueError: arrays that do not belong together.
    """
    context, truth, prediction = _checked(context, truth, prediction)
    scale = scale or _scale(truth, 48)
    past = spread(context.shape[1], columns)
    future = spread(truth.shape[1], columns)
    rows = [
        ("context", context, past, 0),
        ("truth", truth, future, context.shape[1]),
        ("prediction", prediction, future, None),
        ("|difference|", np.abs(prediction - truth), future, None),
    ]
    height, width = (scale * side + _GAP for side in truth.shape[2:4])
    block = 4 * height + 2 * _LINE + 2 * _GAP
    shown = min(sequences, len(truth))
    page = Image.new(
        "RGB", (_MARGIN + max(len(past), len(future)) * width, shown * block - _GAP), _PAPER
    )
    pen = ImageDraw.Draw(page)
    for sequence in range(shown):
        top = sequence * block
        for name, video, times, first in rows:
            if first is not None:  # a row with a time axis of its own above it
                for column, time in enumerate(times):
                    _write(pen, _MARGIN + column * width, top, str(first + time + 1), _FAINT)
                top += _LINE
            _write(pen, _GAP, top + (height - _LINE) // 2, name)
            for column, time in enumerate(times):
                frame = enlarged(video[sequence, time], scale)
                page.paste(Image.fromarray(frame), (_MARGIN + column * width, top))
            top += height
    return np.asarray(page)


def animation(
    context: Video,
    truth: Video,
    prediction: Video,
    *,
    sequences: int = 3,
    scale: int | None = None,
) -> UInt8[np.ndarray, "t height width 3"]:
    """Truth, prediction and |difference| side by side, moving; one row a sequence.

    While the context is shown, the prediction is the context itself. Arguments as in `sheet`;
    frames are enlarged to 96 pixels at least.
    """
    context, truth, prediction = _checked(context, truth, prediction)
    scale = scale or _scale(truth, 96)
    truth = np.concatenate([context, truth], axis=1)
    prediction = np.concatenate([context, prediction], axis=1)
    videos = {
        "truth": truth,
        "prediction": prediction,
        "|difference|": np.abs(prediction - truth),
    }
    height, width = (scale * side + _GAP for side in truth.shape[2:4])
    width = max(width, _MARGIN)
    shown = min(sequences, len(truth))
    pages = []
    for time in range(truth.shape[1]):
        page = Image.new("RGB", (_GAP + 3 * width, 2 * _LINE + shown * height), _PAPER)
        pen = ImageDraw.Draw(page)
        given = time < context.shape[1]
        _write(pen, _GAP, 0, f"{time + 1} {'given' if given else 'predicted'}", _FAINT)
        for column, (name, video) in enumerate(videos.items()):
            left = _GAP + column * width
            _write(pen, left, _LINE, name)
            for row in range(shown):
                frame = Image.fromarray(enlarged(video[row, time], scale))
                page.paste(frame, (left, 2 * _LINE + row * height))
        pages.append(np.asarray(page))
    return np.stack(pages)


def save(path: str | os.PathLike, picture: np.ndarray, *, fps: float = 5) -> None:
    """Writes a picture, or a moving one (.gif, endless, `fps` frames a second)."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.ndim == 3:
        Image.fromarray(picture).save(path)
        return
    if path.suffix != ".gif":
        raise ValueError(f"{path}: a moving picture is written as .gif")
    first, *rest = (Image.fromarray(page) for page in picture)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def _checked(context, truth, prediction):
    """As float arrays that belong together; predictions may leave [0, 1] and are clipped."""
    videos = [np.asarray(video, np.float32) for video in (context, truth, prediction)]
    context, truth, prediction = videos
    but_time = {(video.shape[0], *video.shape[2:]) for video in videos}
    if truth.ndim != 5 or truth.shape != prediction.shape or len(but_time) > 1:
        shapes = ", ".join(str(video.shape) for video in videos)
        raise ValueError(f"context, truth, prediction do not belong together: {shapes}")
    return context, truth, np.clip(prediction, 0, 1)


def _scale(video: Video, least: int) -> int:
    """The whole factor that brings the shorter side to `least` pixels."""
    return -(-least // min(video.shape[2:4]))


def spread(length: int, most: int) -> list[int]:
    """All indices below `length`, or `most` of them evenly spaced from the first to the last."""
    return np.rint(np.linspace(0, length - 1, min(length, most))).astype(int).tolist()


def enlarged(frame: Float[np.ndarray, "h w c"], scale: int) -> Picture:
    if frame.shape[-1] != 3:
        frame = np.repeat(frame.mean(-1, keepdims=True), 3, axis=-1)
    pixels = np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _write(pen, left, top, text, colour=_INK):
    pen.text((left, top), text, fill=colour, font=ImageFont.load_default())
