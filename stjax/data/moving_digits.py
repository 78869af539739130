"""Moving MNIST, generated on the fly (Srivastava et al. 2015, arXiv 1502.04681).

Digits drift over a black canvas in straight lines and bounce off its edges; where they overlap
the brighter pixel wins. OpenSTL's variants (arXiv 2306.11249): other digits, an image behind them,
noise in the frames that are given.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from stjax.data.records import OpenedLate, Record, interpolate

# Distance a frame, in units of the free canvas (its side less the digit's).
STEPS = {
    "openstl": 0.1,  # OpenSTL, openstl/datasets/dataloader_moving_mnist.py
    "convssm": 0.15,  # ConvSSM, data/moving-mnist-pytorch/moving_mnist.py
}
# perceptual: a square of zeros at a random place; missing: a frame of zeros, with probability 0.2;
# dynamic: N(0, 0.2) added to the direction of each step.
NOISES = ("", "perceptual", "missing", "dynamic")
_RATE = 0.2
_HOLE = 24 / 64  # side of the square, in the canvas's


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
        backgrounds: images, brought to the canvas (bicubic), of which one lies behind the digits,
            which are then black and white; None: black.
        noise: one of `NOISES`, in the first `context` frames.
        context: frames that the noise is in.
    """

    digits: UInt8[np.ndarray, "n d d"] | Callable[[], UInt8[np.ndarray, "n d d"]]
    size: int
    length: int
    num_digits: int = 2
    motion: str = "openstl"
    count: int = 10_000
    seed: tuple[int, ...] = (0,)
    backgrounds: Sequence[UInt8[np.ndarray, "h w 3"]] | None = None
    noise: str = ""
    context: int = 0

    def __post_init__(self):
        if self.noise not in NOISES:
            raise ValueError(f"unknown noise {self.noise!r}; there are {', '.join(NOISES[1:])}")
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
        back = 0
        if self.backgrounds is not None:
            chosen = np.where(chosen > 1, np.uint8(255), np.uint8(0))
            back = self._canvas(self.backgrounds[int(rng.integers(len(self.backgrounds)))])
        jitter = np.zeros((self.length, self.num_digits, 2))
        if self.noise == "dynamic":
            jitter[: self.context] = rng.normal(0, _RATE, (self.context, self.num_digits, 2))
        room, step = self.size - chosen.shape[-1], STEPS[self.motion]
        corners = trajectories(draws, self.length, room, step, jitter)
        video = np.maximum(draw(chosen, corners, self.size)[..., None], back)
        self._spoil(video[: self.context], rng)
        return {"video": video, "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without reading a digit."""
        shape = (self.length, self.size, self.size, 1 if self.backgrounds is None else 3)
        return {"video": np.broadcast_to(np.uint8(0), shape), "id": np.int32(0)}

    def _canvas(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "size size 3"]:
        image = interpolate(image[None], (self.size, self.size), cubic=True)[0]
        return np.rint(image).clip(0, 255).astype(np.uint8)

    def _spoil(self, given: UInt8[np.ndarray, "context size size c"], rng: np.random.Generator):
        """Makes the noise of frames, in place."""
        if self.noise == "missing":
            given[rng.uniform(size=len(given)) < _RATE] = 0
        if self.noise == "perceptual":
            side = round(_HOLE * self.size)
            corners = rng.integers(self.size - side, size=(len(given), 2))
            for frame, (top, left) in zip(given, corners):
                frame[top : top + side, left : left + side] = 0

    @functools.cached_property
    def _images(self) -> UInt8[np.ndarray, "n d d"]:
        images = self.digits() if callable(self.digits) else self.digits
        if images.shape[-1] > self.size:
            raise ValueError(f"digits of {images.shape[-1]} pixels on a canvas of {self.size}")
        if not len(images):
            raise ValueError("no digits to draw from")
        return images


def trajectories(
    draws: Float[np.ndarray, "n 3"],
    length: int,
    room: int,
    step: float,
    jitter: Float[np.ndarray, "length n 2"] | None = None,
) -> Int[np.ndarray, "n length 2"]:
    """Top left corners (y, x), in pixels, of n digits in each frame.

    Args:
        draws: x, y and angle / 2π of each digit, uniform in [0, 1). The first frame is already
            one step away from (x, y), as in the published generators.
        room: pixels that a corner can move by, the canvas less the digit.
        step: distance a frame, as a share of `room`.
        jitter: what is added to the direction (y, x), of length 1, of each step; None: nothing.
    """
    x, y, angle = np.asarray(draws, np.float64).T
    starts, angle = np.stack([y, x], 1), angle * 2 * np.pi
    directions = np.stack([np.sin(angle), np.cos(angle)], 1)
    directions = directions + (np.zeros((length, 1, 1)) if jitter is None else jitter)
    moves = step * directions.transpose(1, 2, 0)
    paths = [
        [_bounce(start, along) for start, along in zip(*digit)]
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


def _bounce(position: float, moves: list[float]) -> list[float]:
    """One coordinate over time: clamped to [0, 1], turned round where it reaches an end."""
    path, sign = [], 1
    for move in moves:
        position += sign * move
        if not 0 < position < 1:
            position, sign = min(max(position, 0.0), 1.0), -sign
        path.append(position)
    return path
