"""A made street seen from a car: textured ground and walls, and boxes that cross ahead of it.

The car drives at 1 to 3 m/s. Two or three boxes, bright with dark patches and as large as vans,
come in from either side and cross the view in about two seconds, one behind the other, each at a
constant velocity: in frames 24 pixels wide by about a pixel in a tenth of a second.

For reconstruction of scenes without a download. Rays are cast, so that depth and velocity of every
pixel are known.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from stjax.data.records import Record

Points = Float[np.ndarray, "*n 3"]
_GROUND, _WALL = -1.6, 3.0  # metres under the camera; of the walls over the ground
_RANGE = 60.0  # metres: depths beyond it are not known
_RAYS = 3  # of a pixel, along each side
_HALF_ANGLE = np.radians(29)  # of a camera's view, from left to right


class _Scene(NamedTuple):
    """Of one street: metres, seconds, in axes x forward, y left, z up from where the car starts.

    Attributes:
        speed: of the car.
        walls: distance of the one to the left and the one to the right.
        centres: of the boxes when the clip starts.
        halves: half of their sides.
        velocities: of the boxes.
        textures: of ground, walls and boxes: colours, and waves that mix them.
    """

    speed: float
    walls: tuple[float, float]
    centres: Float[np.ndarray, "boxes 3"]
    halves: Float[np.ndarray, "boxes 3"]
    velocities: Float[np.ndarray, "boxes 3"]
    textures: tuple["_Texture", ...]


class _Texture(NamedTuple):
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]
    waves: Float[np.ndarray, "waves 3"]
    phases: Float[np.ndarray, "waves"]

    def at(self, points: Points) -> Points:
        mix = 0.5 + 0.5 * np.sin(points @ self.waves.T + self.phases).mean(-1, keepdims=True) * 1.6
        return self.low + np.clip(mix, 0, 1) * (self.high - self.low)


@dataclasses.dataclass(frozen=True, eq=False)
class Street:
    """Scenes of `length` frames; scene i is a function of (seed, split, i).

    Attributes:
        count: how many scenes.
        size: height and width of the frames.
        cameras: they look ahead side by side; 1, 2 or 3.
        length: frames of a scene.
        fps: frames a second.
        boxes: least and most of those that drive.
        seed, split: of everything that is drawn.
    """

    count: int
    size: tuple[int, int] = (16, 24)
    cameras: int = 2
    length: int = 20
    fps: int = 10
    boxes: tuple[int, int] = (2, 3)
    seed: int = 0
    split: int = 0

    def __post_init__(self):
        if self.count < 1 or self.cameras not in (1, 2, 3):
            raise ValueError(f"count {self.count}, cameras {self.cameras}; wanted 1, and 1 to 3")

    def __len__(self) -> int:
        return self.count

    def frames_of(self, scene: int) -> int:
        del scene
        return self.length

    def frames(self, scene: int, start: int, which: Sequence[int]) -> Record:
        """Frames of all cameras, poses and times as from frame `start` on; arrays (t, v, ...).

        "video" uint8, "depth" in metres (0 in the sky and far off), "flow" in metres a second,
        "sky", "dynamic", "ground", "intrinsics" in pixels, "pose" camera to world, "time" in
        seconds.
        """
        drawn = self._scene(scene)
        seconds = np.asarray(which) / self.fps
        poses = self._poses(drawn.speed * seconds)
        height, width = self.size
        focal = width / 2 / np.tan(_HALF_ANGLE)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        # Colours are means of the light on a pixel, the rest is of the ray through its middle.
        fine = np.diag([_RAYS, _RAYS, 1]) @ intrinsics
        colour, depth, hit = _cast(drawn, poses, seconds, fine, (_RAYS * height, _RAYS * width))
        cells = (*colour.shape[:2], height, _RAYS, width, _RAYS)
        colour = colour.reshape(*cells, 3).mean((3, 5))
        depth, hit = (x.reshape(cells)[:, :, :, _RAYS // 2, :, _RAYS // 2] for x in (depth, hit))
        views = colour.shape[:2]
        # Sky 0, ground 1, walls 2 and 3, boxes from 4 on.
        velocities = np.concatenate([np.zeros((4, 3)), drawn.velocities])
        seen_from = np.asarray([drawn.speed * start / self.fps, 0, 0])
        poses = poses.copy()
        poses[..., :3, 3] -= seen_from
        return {
            "video": np.rint(255 * np.clip(colour, 0, 1)).astype(np.uint8),
            "intrinsics": np.broadcast_to(intrinsics, (*views, 3, 3)).astype(np.float32),
            "pose": poses.astype(np.float32),
            "time": np.repeat(np.float32(seconds - start / self.fps)[:, None], views[1], 1),
            "depth": np.where(depth < _RANGE, depth, 0).astype(np.float32),
            "sky": hit == 0,
            "flow": velocities[hit].astype(np.float32),
            "dynamic": hit >= 4,
            "ground": hit == 1,
        }

    def _poses(self, ahead: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t v 4 4"]:
        """Camera to world: right is -y, down is -z, and they turn about z."""
        apart = 1.5 * _HALF_ANGLE
        yaws = apart * ((self.cameras - 1) / 2 - np.arange(self.cameras))
        poses = np.zeros((len(ahead), self.cameras, 4, 4))
        poses[..., 3, 3] = 1
        for k, yaw in enumerate(yaws):
            c, s = np.cos(yaw), np.sin(yaw)
            poses[:, k, :3, :3] = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])
        poses[..., 0, 3] = ahead[:, None]
        return poses

    def _scene(self, scene: int) -> _Scene:
        rng = np.random.default_rng((self.seed, self.split, scene))
        number = rng.integers(self.boxes[0], self.boxes[1] + 1)
        halves = rng.uniform((1.0, 1.6, 1.2), (1.5, 2.2, 1.7), (number, 3))
        # One behind the other and all at about the car's pace, so that nothing meets.
        speed = rng.uniform(1, 3)
        ahead = rng.uniform(8, 9) + 4 * np.arange(number)
        side = rng.choice([-1, 1], number)
        across = rng.uniform(0.4, 0.6, number) * ahead
        lanes = side * across * rng.uniform(0.7, 1.1, number)
        centres = np.stack([ahead, lanes, _GROUND + halves[:, 2]], -1)
        velocities = np.zeros((number, 3))
        velocities[:, 0] = speed + rng.uniform(-0.25, 0.25, number)
        velocities[:, 1] = -side * across
        dull = lambda: np.sort(rng.uniform(0.2, 0.6, (2, 3)), 0)
        hue = lambda: np.roll([1, *rng.uniform(0, 1, 2)], rng.integers(3))
        bright = lambda: (np.full(3, 0.05), hue())
        sign = lambda *shape: rng.choice([-1, 1], shape)
        wave = lambda short, long: 2 * np.pi / rng.uniform(short, long, (2, 3)) * sign(2, 3)
        draw = lambda pair, short, long: _Texture(*pair, wave(short, long), rng.uniform(0, 6, 2))
        textures = [draw(dull(), 12, 24) for _ in range(3)]
        textures += [draw(bright(), 5, 8) for _ in range(number)]
        walls = rng.uniform(6, 8), rng.uniform(6, 8)
        return _Scene(speed, walls, centres, halves, velocities, tuple(textures))


def _cast(scene, poses, seconds, intrinsics, size):
    """Colours, depths along the cameras' axes, and what was hit, of a ray a pixel."""
    rows, columns = (np.arange(side) + 0.5 for side in size)
    x = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = np.stack(np.broadcast_arrays(x, y[:, None], np.float64(1)), -1)
    rays = rays @ poses[:, :, None, :3, :3].swapaxes(-1, -2)
    start = poses[:, :, None, None, :3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [(_GROUND - start[..., 2]) / rays[..., 2]]
        for side in (scene.walls[0], -scene.walls[1]):
            depth = (side - start[..., 1]) / rays[..., 1]
            above = start[..., 2] + depth * rays[..., 2] - _GROUND
            found.append(np.where((above >= 0) & (above <= _WALL), depth, np.inf))
        for centre, half, velocity in zip(scene.centres, scene.halves, scene.velocities):
            centre = centre + velocity * seconds[:, None, None, None, None]
            ends = [(centre + sign * half - start) / rays for sign in (-1, 1)]
            # Along axes of three, numpy's reductions are slow.
            enter = functools.reduce(np.maximum, np.moveaxis(np.minimum(*ends), -1, 0))
            leave = functools.reduce(np.minimum, np.moveaxis(np.maximum(*ends), -1, 0))
            found.append(np.where(enter <= leave, enter, np.inf))
    found = np.stack(np.broadcast_arrays(np.inf, *found))
    found = np.where(found > 0.1, found, np.inf)
    depth = found.min(0)
    hit = np.where(np.isfinite(depth), found.argmin(0), 0)
    depth = np.where(hit > 0, depth, 0)
    points = start + depth[..., None] * rays
    up = rays[..., 2:] / np.linalg.norm(rays, axis=-1, keepdims=True)
    colour = np.array([0.75, 0.85, 0.95]) - np.clip(up, 0, 1) * np.array([0.45, 0.3, 0.1])
    for k, texture in enumerate(scene.textures, start=1):
        here = hit == k
        at = points[here]
        if k >= 4:  # textures drive along
            moved = scene.centres[k - 4] + scene.velocities[k - 4] * seconds[:, None]
            at = at - np.broadcast_to(moved[:, None, None, None], points.shape)[here]
        colour[here] = texture.at(at)
    return colour, depth, hit
