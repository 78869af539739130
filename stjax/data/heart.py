"""A made echocardiogram: a ventricle that beats in speckle, behind wedges that the sound misses.

For segmentation without a download. A second dark cavity, of random place, and the ventricle's own
place, size and tilt keep a threshold and the mean shape from being good answers.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from stjax.data.records import Record

_APEX = (0.5, -0.05)  # (x, y) of the probe; lengths are in the frame's sides
_OPENING = np.deg2rad(42)  # half of the sector's angle
# Mean brightness of what there is.
_TISSUE, _WALL, _CAVITY, _MISSED = 0.4, 0.7, 0.13, 0.15


@dataclasses.dataclass(frozen=True, eq=False)
class BeatingHeart:
    """Clips of half a beat and a bit; clip i is a function of (seed, i).

    The ventricle, class 1, contracts to 50 to 70 % of its width and widens again in part.

    Attributes:
        count: how many clips.
        length: frames of each.
        size: height and width.
        seed: tells sets of clips apart.
        missed: share of the frames of which a wedge is not seen.
    """

    count: int
    length: int = 10
    size: int = 64
    seed: tuple[int, ...] = (0,)
    missed: float = 0.5

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.count:
            raise IndexError(f"clip {index} of {self.count}")
        rng = np.random.default_rng((*self.seed, index))
        y, x = (np.mgrid[: self.size, : self.size] + 0.5) / self.size
        radius, angle = np.hypot(x - _APEX[0], y - _APEX[1]), np.arctan2(x - _APEX[0], y - _APEX[1])
        sector = (np.abs(angle) < _OPENING) & (radius > 0.1) & (radius < 1)
        centre, tilt = rng.uniform((0.4, 0.42), (0.6, 0.6)), rng.uniform(-0.5, 0.5)
        axes = rng.uniform((0.11, 0.18), (0.17, 0.27))
        side = rng.choice([-1, 1])
        other = centre + np.array([side * rng.uniform(0.2, 0.26), rng.uniform(-0.08, 0.2)])
        other_axes, other_tilt = rng.uniform(0.06, 0.12, 2), rng.uniform(-0.5, 0.5)
        beat = _beat(self.length, rng)
        frames, masks = [], []
        for shrunk in beat:
            # The wall keeps its area more or less: it thickens where the cavity narrows.
            own = axes * (1 - shrunk * np.array([1, 0.5]))
            cavity = _ellipse(x, y, centre, own, tilt)
            wall = _ellipse(x, y, centre, own + 0.045 + 0.05 * shrunk, tilt)
            second = _ellipse(x, y, other, other_axes * (1 - 0.3 * shrunk), other_tilt)
            mean = np.where(wall, _WALL, np.where(second, _CAVITY, _TISSUE))
            mean = np.where(cavity, _CAVITY, mean) * (1.15 - 0.5 * radius)
            if rng.uniform() < self.missed:
                towards = np.arctan2(*(centre - _APEX)) + rng.uniform(-0.35, 0.35)
                mean = np.where(np.abs(angle - towards) < rng.uniform(0.06, 0.2), _MISSED, 1) * mean
            frames.append(np.where(sector, mean * _speckle(mean.shape, rng), 0))
            masks.append(cavity & sector)
        video = np.rint(255 * np.clip(np.stack(frames), 0, 1)).astype(np.uint8)
        return {
            "video": video[..., None],
            "mask": np.stack(masks).astype(np.uint8),
            "labelled": np.ones(self.length, np.float32),
            "id": np.int32(index),
        }


def _beat(length, rng) -> Float[np.ndarray, " length"]:
    """By how much the ventricle is narrower, in parts of its width."""
    time = np.linspace(0, np.pi * rng.uniform(0.6, 0.85), length)
    return rng.uniform(0.3, 0.5) * np.sin(time)


def _ellipse(x, y, centre, axes, tilt) -> Bool[np.ndarray, "h w"]:
    cos, sin, right, down = np.cos(tilt), np.sin(tilt), x - centre[0], y - centre[1]
    across, along = cos * right + sin * down, cos * down - sin * right
    return (across / axes[0]) ** 2 + (along / axes[1]) ** 2 < 1


def _speckle(shape, rng) -> Float[np.ndarray, "h w"]:
    """Amplitudes of sound that many scatterers throw back: Rayleigh's, of mean 1, two pixels wide.

    They are lengths of complex Gaussians, whose real and imaginary parts are averaged beforehand.
    """
    waves = rng.normal(size=(2, *shape))
    waves = waves + np.roll(waves, 1, -1)
    waves = waves + np.roll(waves, 1, -2)
    return np.hypot(*waves) / (2 * np.sqrt(np.pi / 2))
