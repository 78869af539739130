"""Clips whose class is how something moves: made video for recognition, without a download.

One digit lies over a static background of noise, its place, angle and size uniform (the size in
its logarithm), and one of the three changes steadily; places and sizes come round again. So in
every class each single frame has the same distribution: neither a frame nor a class's mean clip
tells anything. A class and the next (0 and 1, 2 and 3, ...) are each other run backwards, so that
whoever ignores the order of frames is wrong half of the time at least.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from stjax.data.records import Record

CLASSES = (
    "right", "left", "down", "up", "clockwise", "anticlockwise", "growing", "shrinking",
)
# What a frame adds to (x, y, angle, log size): a direction, and the range of its length. Places are
# shares of the canvas, angles of a turn, sizes of the way from the smallest to the largest.
_SPEEDS = {0: (0.05, 0.1), 1: (0.05, 0.1), 2: (0.04, 0.1), 3: (0.06, 0.12)}
_SIZES = (0.3, 0.75)  # of the digit, in the canvas's sides
_NOISE = 96  # brightest pixel of the background


@dataclasses.dataclass(frozen=True, eq=False)
class Motions:
    """Clips of one digit that moves in one of `CLASSES`; record i is a function of (seed, i).

    Attributes:
        digits: images to draw from.
        size: height and width of a frame.
        length: frames of a clip.
        count: how many clips; their classes take turns.
        seed: tells sets of clips apart.
    """

    digits: UInt8[np.ndarray, "n d d"]
    size: int
    length: int
    count: int
    seed: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng((*self.seed, index))
        label = index % len(CLASSES)
        what, backwards = divmod(label, 2)
        step = rng.uniform(*_SPEEDS[what]) * (-1 if backwards else 1)
        states = np.tile(rng.uniform(size=4), (self.length, 1))
        states[:, what] += step * np.arange(self.length)
        digit = self.digits[rng.integers(len(self.digits))]
        noise = rng.integers(0, _NOISE, (self.size, self.size), np.uint8)
        video = np.maximum(draw(digit, states % 1, self.size), noise)
        return {
            "video": video[..., None], "label": np.int32(label), "id": np.int32(index)
        }

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without drawing."""
        shape = (self.length, self.size, self.size, 1)
        zero = np.int32(0)
        return {"video": np.broadcast_to(np.uint8(0), shape), "label": zero, "id": zero}


def draw(
    digit: UInt8[np.ndarray, "d d"], states: Float[np.ndarray, "t 4"], size: int
) -> UInt8[np.ndarray, "t size size"]:
    """Frames of a digit at (x, y, angle, log size), each in [0, 1); the canvas's edges meet."""
    x, y, angle, scale = states.T[:, :, None, None]
    side = size * _SIZES[0] * (_SIZES[1] / _SIZES[0]) ** scale
    pixels = np.arange(size)
    around = lambda offset: (offset + size / 2) % size - size / 2
    right, down = around(pixels - x * size), around(pixels[:, None] - y * size)
    cos, sin = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
    last = len(digit) + 1  # of the digit with a dark frame round it
    across = (cos * right + sin * down) * len(digit) / side + last / 2
    along = (cos * down - sin * right) * len(digit) / side + last / 2
    across, along = np.clip(across, 0, last - 1e-6), np.clip(along, 0, last - 1e-6)
    framed = np.pad(digit.astype(np.float64), 1)
    left, top = across.astype(int), along.astype(int)
    across, along = across - left, along - top
    upper = (1 - across) * framed[top, left] + across * framed[top, left + 1]
    lower = (1 - across) * framed[top + 1, left] + across * framed[top + 1, left + 1]
    return np.rint((1 - along) * upper + along * lower).astype(np.uint8)
