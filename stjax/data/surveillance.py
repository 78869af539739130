"""A made street under a fixed camera: people walk in lanes, and in test clips one of them does not.

For looking for anomalies without a download. What goes wrong is chosen such that the difference of
frames does not tell: someone walks the wrong way at a normal pace, stands still, jumps about in
normal steps, or turns into something else of the same size.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, UInt8

ANOMALIES = ("wrong way", "standing", "jumping", "other shape")
_LANE = 10  # pixels between lanes
_MARGIN = 5.0  # beyond the edges, where nobody is seen
# Boxes (left, top, width, height) around a walker's middle: a head, a body, and legs that swing.
_BODY = ((-0.75, -4.0, 1.5, 1.5), (-1.5, -2.5, 3.0, 3.5))
_LEG = (-0.5, 1.0, 1.0, 3.0)
# As many pixels as a walker has.
_OTHER = ((-3.5, -1.25, 7.0, 1.4), (-0.7, -4.0, 1.4, 3.0), (-3.5, 0.15, 1.4, 2.0),
          (2.1, 0.15, 1.4, 2.0))


@dataclasses.dataclass(frozen=True, eq=False)
class Surveillance:
    """Clips of one street; clip i is a function of (seed, split, i), the street of the seed alone.

    Everybody keeps to a lane and to its direction, which alternates, at a pace of their own. Who
    leaves comes in again on the other side.

    Attributes:
        count: how many clips.
        length: frames of each.
        size: height and width.
        seed, split: of the street, and of what happens in it.
        abnormal: whether one walker of every clip does something odd for a while: of `ANOMALIES`
            in turns.
        pace: least and greatest, pixels a frame.
    """

    count: int
    length: int
    size: int = 32
    seed: int = 0
    split: int = 0
    abnormal: bool = False
    pace: tuple[float, float] = (1.0, 1.5)

    def __post_init__(self):
        if self.size < 2 * _LANE or self.count < 1:
            raise ValueError(f"size {self.size} and count {self.count}; {2 * _LANE} and 1 at least")

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.length,) * self.count

    def frames(self, clip: int, start: int, stop: int) -> UInt8[np.ndarray, "t size size 1"]:
        walkers, shades, _ = self._clip(clip)
        out = np.repeat(self._street[None], stop - start, axis=0)
        for walker, shade in zip(walkers, shades):
            for frame, (x, y, other) in zip(out, walker[start:stop]):
                for box in _OTHER if other else _walking(x):
                    cover = _cover(y + box[1], box[3], self.size)[:, None] * _cover(
                        x + box[0], box[2], self.size
                    )
                    frame += cover * (shade - frame)
        return np.rint(out).astype(np.uint8)[..., None]

    def labels(self, clip: int) -> Bool[np.ndarray, " length"]:
        return self._clip(clip)[2]

    @functools.cached_property
    def _street(self) -> Float[np.ndarray, "size size"]:
        """Grey tiles under a light that falls off."""
        rng = np.random.default_rng((self.seed, 0))
        tiles = np.kron(rng.uniform(30, 90, (-(-self.size // 4),) * 2), np.ones((4, 4)))
        return tiles[: self.size, : self.size] + np.linspace(0, 25, self.size)[:, None]

    def _clip(self, clip: int):
        """Places (x, y, whether of the other shape) of all walkers, their greys, and labels."""
        rng = np.random.default_rng((self.seed, 1 + self.split, clip))
        lanes = self.size // _LANE
        number = rng.integers(max(lanes - 1, 2), lanes + 1)
        chosen = rng.permutation(lanes)[:number]
        shades = rng.uniform(150, 250, number)
        round_ = self.size + 2 * _MARGIN
        labels, walkers = np.zeros(self.length, bool), []
        for k, lane in enumerate(chosen):
            pace = rng.uniform(*self.pace) * (1 if lane % 2 else -1)
            steps, other = np.array([[pace, 0.0]] * self.length), np.zeros(self.length)
            meets = rng.uniform(0, round_), rng.integers(self.length)
            if self.abnormal and not k:
                first = rng.integers(self.length // 4, self.length // 2)
                stop = first + rng.integers(self.length // 4, self.length // 2)
                labels[first:stop] = True
                _misbehave(steps[first:stop], other[first:stop], ANOMALIES[clip % 4], rng)
                meets = round_ / 2, (first + stop) // 2  # in view
            path = np.cumsum(steps, axis=0)
            path += (meets[0], (lane + 0.5) * self.size / lanes) - path[meets[1]] * (1, 0)
            path[:, 0] = path[:, 0] % round_ - _MARGIN
            walkers.append(np.column_stack([path, other]))
        return walkers, shades, labels


def _misbehave(steps, other, what, rng):
    """Changes steps (dx, dy), or sets where the shape is the other one."""
    if what == "wrong way":
        steps *= -1
    elif what == "standing":
        steps[:] = 0
    elif what == "jumping":
        angle = rng.uniform(0, 2 * np.pi, len(steps))
        steps[:] = abs(steps[:, :1]) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        other[:] = 1


def _walking(x: float):
    """Boxes of a walker: the legs swing once in six pixels."""
    swing = 1.2 * np.sin(2 * np.pi * x / 6)
    left, top, width, height = _LEG
    return (*_BODY, (left - swing, top, width, height), (left + swing, top, width, height))


def _cover(start: float, length: float, size: int) -> Float[np.ndarray, " size"]:
    """How much of each pixel lies between start and start + length."""
    pixels = np.arange(size)
    return np.clip(np.minimum(pixels + 1, start + length) - np.maximum(pixels, start), 0, 1)
