"""Pictures of what an agent remembers: rooms and a walk through them, dancers kept or given up."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from stjax.viz.frames import Picture

_GAP, _LINE, _ROOM = 6, 14, 60  # pixels: between things, of a line of text, of a room
_PAPER, _INK, _FAINT, _GREY = (255, 255, 255), (20, 20, 20), (130, 130, 130), (205, 205, 205)
_LOOK, _ASKED = (0, 114, 178), (230, 159, 0)
_WRONG = (213, 94, 0)
_BARS = 210


def walk(
    rooms: UInt8[np.ndarray, "rooms h w 3"],
    places: Int[np.ndarray, " t"],
    looks: Float[np.ndarray, " t"],
    asked: int,
    scores: Float[np.ndarray, " classes"],
    label: int,
    names: Sequence[str],
) -> Picture:
    """The rooms with their dancers, the walk as a chart of room by time, and the answer.

    Blue is where the model looked: a bar under each room, and moments of the chart. The room of the
    question has a yellow frame, and a yellow number.

    Args:
        rooms: a frame of each, row by row of a square.
        places, looks: where the agent was at each step, and the weight of what was kept of it.
        scores, label: probabilities of the answers, and the true one.
    """
    side, steps = int(len(rooms) ** 0.5), len(places)
    step = max(1, 320 // steps)
    chart = side * (_ROOM + _GAP) + 60
    height = side * (_ROOM + _GAP + 8) + 2 * _LINE
    page = Image.new("RGB", (chart + steps * step + _BARS + 3 * _GAP, height), _PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    pen.text((_GAP, 0), "rooms, and where it looked", _FAINT, font)
    share = np.bincount(places, np.asarray(looks), len(rooms))
    for room, frame in enumerate(rooms):
        row, column = divmod(room, side)
        left, top = _GAP + column * (_ROOM + _GAP), _LINE + _GAP + row * (_ROOM + _GAP + 8)
        page.paste(Image.fromarray(np.asarray(frame)).resize((_ROOM, _ROOM), 0), (left, top))
        if room == asked:
            pen.rectangle((left - 2, top - 2, left + _ROOM + 1, top + _ROOM + 1), None, _ASKED, 3)
        length = round(min(share[room], 1) * _ROOM)
        pen.rectangle((left, top + _ROOM + 3, left + _ROOM, top + _ROOM + 7), _GREY)
        pen.rectangle((left, top + _ROOM + 3, left + length, top + _ROOM + 7), _LOOK)
    line = (height - 2 * _LINE - _GAP) // len(rooms)
    pen.text((chart, 0), f"room, over {steps} steps", _FAINT, font)
    most = max(looks.max(), 1e-9)
    for room in range(len(rooms)):
        top = _LINE + _GAP + room * line
        pen.text((chart - 16, top + line // 2 - 6), str(room), _ASKED if room == asked else _INK)
        pen.rectangle((chart, top, chart + steps * step, top + line - 3), (245, 245, 245))
    for time, (room, look) in enumerate(zip(places, looks)):
        top, left = _LINE + _GAP + room * line, chart + time * step
        pen.rectangle((left, top, left + step - 1, top + line - 3), _mixed(look / most))
    _answers(pen, chart + steps * step + 2 * _GAP, scores, label, names)
    return np.asarray(page)


def tour(
    dancers: UInt8[np.ndarray, "n h w 3"],
    places: Int[np.ndarray, " n"],
    kept: Bool[np.ndarray, " n"],
    looks: Float[np.ndarray, " n"],
    asked: int,
    scores: Float[np.ndarray, " classes"],
    label: int,
    names: Sequence[str],
    title: str,
) -> Picture:
    """Dancers in the order in which they were seen, their rooms below; those given up are pale.

    A bar under each says how far the model looked at it; who is asked for has a yellow frame.
    """
    width = len(dancers) * (_ROOM // 2 + _GAP)
    page = Image.new("RGB", (width + _BARS + 3 * _GAP, 6 * _LINE + _GAP), _PAPER)
    pen, font, side = ImageDraw.Draw(page), ImageFont.load_default(), _ROOM // 2
    pen.text((_GAP, 0), title, _INK, font)
    top = _LINE + _GAP
    for k, frame in enumerate(np.asarray(dancers)):
        left = _GAP + k * (side + _GAP)
        shown = frame if kept[k] else (frame // 6 + 210).astype(np.uint8)
        page.paste(Image.fromarray(shown).resize((side, side), 0), (left, top))
        if k == asked:
            pen.rectangle((left - 2, top - 2, left + side + 1, top + side + 1), None, _ASKED, 3)
        length = round(min(looks[k], 1) * side)
        pen.rectangle((left, top + side + 3, left + side, top + side + 7), _GREY)
        pen.rectangle((left, top + side + 3, left + length, top + side + 7), _LOOK)
        pen.text((left + 8, top + side + 10), str(places[k]), _FAINT, font)
    _answers(pen, width + 2 * _GAP, scores, label, names)
    return np.asarray(page)


def column(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one width, one under another."""
    return np.concatenate([np.pad(p, ((0, 12), (0, 0), (0, 0)), constant_values=255)
                           for p in pictures])


def _answers(pen, left, scores, label, names, best=3):
    """The true answer, and the likeliest ones with their bars."""
    font = ImageFont.load_default()
    pen.text((left, 0), f"true: {names[label]}", _INK, font)
    for place, k in enumerate(np.argsort(-scores)[:best], start=1):
        colour, top = _LOOK if k == label else _WRONG, place * _LINE + _GAP
        pen.rectangle((left, top + 3, left + int(60 * scores[k]), top + _LINE - 3), colour)
        pen.text((left + 68, top), f"{scores[k]:.2f} {names[k]}", colour, font)


def _mixed(share: float) -> tuple[int, ...]:
    """From grey, not looked at, to blue."""
    return tuple(round(a + share * (b - a)) for a, b in zip(_GREY, _LOOK))
