"""Moving MNIST, generated on the fly (Srivastava et al. 2015, arXiv 1502.04681).

Digits drift over a black canvas in straight lines and bounce off its edges; where they overlap
the brighter pixel wins.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

from stjax.data.records import OpenedLate, Record

# Distance a frame, in units of the free canvas (its side less the digit's).
STEPS = {
    "openstl": 0.1,  # OpenSTL, openstl/datasets/dataloader_moving_mnist.py
    "convssm": 0.15,  # ConvSSM, data/moving-mnist-pytorch/moving_mnist.py
}


@dataclasses.dataclass(frozen=True, eq=False)
class MovingDigits(OpenedLate):
    """Sequences of moving digits; record i is a pure function of (seed, i).

    Attributes:
        digits: images to draw from, or what reads them when the first sequence is drawn.
        size: height and width of the canvas.
        length: frames of a sequence.
        num_digits: digits on a canvas.
        motion: whose step length, a key of `STEPS`.
        count: how many sequences.
        seed: entropy; several numbers keep streams apart, (seed, split).
    """

    digits: UInt8[np.ndarray, "n d d"] | Callable[[], UInt8[np.ndarray, "n d d"]]
    size: int
    length: int
    num_digits: int = 2
    motion: str = "openstl"
    count: int = 10_000
    seed: tuple[int, ...] = (0,)

    def __post_init__(self):
        if self.motion not in STEPS:
            raise ValueError(f"unknown motion {self.motion!r}; there are {', '.join(STEPS)}")
        if min(self.length, self.num_digits, self.count) < 1:
            raise ValueError("length, num_digits and count must be at least 1")
        if not callable(self.digits):
            self._images  # noqa: B018  (checks them)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*self.seed, index))))
        draws = rng.random((self.num_digits, 3))
        chosen = self._images[rng.integers(len(self._images), size=self.num_digits)]
        corners = trajectories(draws, self.length, self.size - chosen.shape[-1], STEPS[self.motion])
        return {"video": draw(chosen, corners, self.size)[..., None], "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without reading a digit."""
        shape = (self.length, self.size, self.size, 1)
        return {"video": np.broadcast_to(np.uint8(0), shape), "id": np.int32(0)}

    @functools.cached_property
    def _images(self) -> UInt8[np.ndarray, "n d d"]:
        images = self.digits() if callable(self.digits) else self.digits
        if images.shape[-1] > self.size:
            raise ValueError(f"digits of {images.shape[-1]} pixels on a canvas of {self.size}")
        if not len(images):
            raise ValueError("no digits to draw from")
        return images


def trajectories(
    draws: Float[np.ndarray, "n 3"], length: int, room: int, step: float
) -> Int[np.ndarray, "n length 2"]:
    """Top left corners (y, x), in pixels, of n digits in each frame.

    Args:
        draws: x, y and angle / 2π of each digit, uniform in [0, 1). The first frame is already
            one step away from (x, y), as in the published generators.
        room: pixels that a corner can move by, the canvas less the digit.
        step: distance a frame, as a share of `room`.
    """
    x, y, angle = np.asarray(draws, np.float64).T
    starts, angle = np.stack([y, x], 1), angle * 2 * np.pi
    moves = step * np.stack([np.sin(angle), np.cos(angle)], 1)
    paths = [
        [_bounce(start, move, length) for start, move in zip(*digit)]
        for digit in zip(starts.tolist(), moves.tolist())
    ]
    return (room * np.array(paths)).astype(np.int32).transpose(0, 2, 1)


def draw(
    digits: UInt8[np.ndarray, "n d d"], corners: Int[np.ndarray, "n t 2"], size: int
) -> UInt8[np.ndarray, "t size size"]:
    """Frames with every digit at its corner, merged by the pixel-wise maximum."""
    frames = np.zeros((corners.shape[1], size, size), np.uint8)
    side = digits.shape[-1]
    for digit, path in zip(digits, corners.tolist()):
        for frame, (top, left) in zip(frames, path):
            window = frame[top : top + side, left : left + side]
            np.maximum(window, digit, out=window)
    return frames


def _bounce(position: float, move: float, length: int) -> list[float]:
    """One coordinate over time: clamped to [0, 1], turned round where it reaches an end."""
    path = []
    for _ in range(length):
        position += move
        if not 0 < position < 1:
            position, move = min(max(position, 0.0), 1.0), -move
        path.append(position)
    return path
