"""Pictures of predicted video: a sheet of frames over time, and a moving one.

Pictures are arrays (height, width, 3) uint8, moving ones (time, height, width, 3), so that any
log takes them; `save` writes them. numpy and pillow only.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Video = Float[np.ndarray, "b t h w c"]
Picture = UInt8[np.ndarray, "height width 3"]
# A row's name, its frames, and a text over each of them.
Strip = tuple[str, Float[np.ndarray, "t h w c"], Sequence[str] | None]

_GAP = 3  # pixels between frames
_LINE = 14  # pixels of a line of text
_MARGIN = 76  # pixels for the names of the rows
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (130, 130, 130)
_HIDDEN = (70, 95, 150)


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
    past = spread(context.shape[1], columns)
    future = spread(truth.shape[1], columns)
    blocks = [
        [
            ("context", context[k, past], _counted(past, 1)),
            ("truth", truth[k, future], _counted(future, 1 + context.shape[1])),
            ("prediction", prediction[k, future], None),
            ("|difference|", np.abs(prediction - truth)[k, future], None),
        ]
        for k in range(min(sequences, len(truth)))
    ]
    return strips(blocks, scale=scale)


def strips(blocks: Sequence[Sequence[Strip]], *, scale: int | None = None) -> Picture:
    """Rows of frames over time, with their names, in blocks one under the other.

    Args:
        blocks: rows of (name, frames, a text over every frame or None for no line of text). All
            frames are alike in height and width, in [0, 1] or clipped to it; 1 or 3 channels,
            others are shown by their mean.
        scale: whole factor of enlargement, nearest pixel; None: to 48 pixels at least.
    """
    scale = scale or _scale(blocks[0][0][1], 48)
    height, width = (scale * side + _GAP for side in blocks[0][0][1].shape[1:3])
    rows = [row for block in blocks for row in block]
    lines = sum(texts is not None for *_, texts in rows)
    gaps = 2 * len(blocks) - 1
    page = Image.new(
        "RGB",
        (
            _MARGIN + max(len(frames) for _, frames, _ in rows) * width,
            len(rows) * height + lines * _LINE + gaps * _GAP,
        ),
        _PAPER,
    )
    pen, top = ImageDraw.Draw(page), 0
    for block in blocks:
        for name, frames, texts in block:
            if texts is not None:
                for column, text in enumerate(texts):
                    _write(pen, _MARGIN + column * width, top, text, _FAINT)
                top += _LINE
            _write(pen, _GAP, top + (height - _LINE) // 2, name)
            for column, frame in enumerate(frames):
                picture = Image.fromarray(enlarged(frame, scale))
                page.paste(picture, (_MARGIN + column * width, top))
            top += height
        top += 2 * _GAP
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
    truth = np.concatenate([context, truth], axis=1)
    prediction = np.concatenate([context, prediction], axis=1)
    captions = [
        f"{time + 1} {'given' if time < context.shape[1] else 'predicted'}"
        for time in range(truth.shape[1])
    ]
    rows = [
        {
            "truth": truth[k],
            "prediction": prediction[k],
            "|difference|": np.abs(prediction - truth)[k],
        }
        for k in range(min(sequences, len(truth)))
    ]
    return moving(rows, captions, scale=scale)


def moving(
    rows: Sequence[Mapping[str, Float[np.ndarray, "t h w c"]]],
    captions: Sequence[str],
    *,
    names: Sequence[str] = (),
    scale: int | None = None,
) -> UInt8[np.ndarray, "t height width 3"]:
    """Videos side by side, moving.

    Args:
        rows: the videos of every row by the names of the columns; all alike in shape but for the
            channels.
        captions: a text for every moment.
        names: of the rows; none: without a margin for them.
        scale: as in `strips`, but to 96 pixels at least.
    """
    columns = list(rows[0])
    scale = scale or _scale(rows[0][columns[0]], 96)
    height, width = (scale * side + _GAP for side in rows[0][columns[0]].shape[1:3])
    width, margin = max(width, _MARGIN), _MARGIN if names else _GAP
    pages = []
    for time, caption in enumerate(captions):
        size = (margin + len(columns) * width, 2 * _LINE + len(rows) * height)
        page = Image.new("RGB", size, _PAPER)
        pen = ImageDraw.Draw(page)
        _write(pen, _GAP, 0, caption, _FAINT)
        for column, name in enumerate(columns):
            _write(pen, margin + column * width, _LINE, name)
            for row, videos in enumerate(rows):
                frame = Image.fromarray(enlarged(videos[name][time], scale))
                page.paste(frame, (margin + column * width, 2 * _LINE + row * height))
        for row, name in enumerate(names):
            _write(pen, _GAP, 2 * _LINE + row * height + (height - _LINE) // 2, name)
        pages.append(np.asarray(page))
    return np.stack(pages)


def shaded(
    video: Float[np.ndarray, "t h w c"], hidden: Bool[np.ndarray, "t h w"]
) -> Float[np.ndarray, "t h w 3"]:
    """The video in three channels, with a flat colour where it is hidden."""
    if video.shape[-1] != 3:
        video = np.repeat(video.mean(-1, keepdims=True), 3, axis=-1)
    return np.where(hidden[..., None], np.float32(_HIDDEN) / 255, video)


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


def _scale(video: Float[np.ndarray, "t h w c"], least: int) -> int:
    """The whole factor that brings the shorter side to `least` pixels."""
    return -(-least // min(video.shape[1:3]))


def _counted(times: Sequence[int], first: int) -> list[str]:
    return [str(first + time) for time in times]


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
