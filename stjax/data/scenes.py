"""Scenes filmed by several cameras from a moving car: frames, poses, depth and flow.

    splits = scenes.load("street", size=(16, 24), cameras=2)
    splits.train[0]["context_video"]  # (4, 2, 16, 24, 3) uint8

Poses are those of OpenCV's cameras (right, down, forward) in the space of the car's front camera at
a clip's first frame (forward, left, up), in metres.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from stjax.data import Splits
from stjax.data.records import OpenedLate, Record
from stjax.data.street import Street

_CAMERAS = {1: ("0",), 3: ("1", "0", "2"), 5: ("3", "1", "0", "2", "4")}
_FRONT = "0"
_FROM_OPENCV = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)
_SLOW = 0.5  # metres a second: slower flow is taken for none where flow is made coarser


class Scenes(Protocol):
    """Scenes, read in frames."""

    def __len__(self) -> int: ...

    def frames_of(self, scene: int) -> int:
        """How many frames it has."""

    def frames(self, scene: int, start: int, which: Sequence[int]) -> Record:
        """Arrays (t, v, ...): see `stjax.data.street.Street.frames`; some may be missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class SceneClips(OpenedLate):
    """Clips of scenes: evenly spaced frames for context, and frames to render.

    Attributes:
        scenes: where they come from.
        length: frames of a clip.
        context: how many of them are given.
        targets: how many are drawn to be rendered, of all of the clip, at every reading anew; None:
            all are, of clips one after the other (evaluation).
        seed: of the draws.
    """

    scenes: Scenes
    length: int = 20
    context: int = 4
    targets: int | None = 4
    seed: int = 0

    def __post_init__(self):
        if self.length % self.context or not 0 < (self.targets or 1) <= self.length:
            raise ValueError(
                f"length {self.length}, context {self.context}, targets {self.targets}: wanted "
                "evenly spaced frames, and no more targets than frames"
            )
        short = [k for k in range(len(self.scenes)) if self.scenes.frames_of(k) < self.length]
        if short:
            raise ValueError(
                f"scene {short[0]}: {self.scenes.frames_of(short[0])} frames, and a clip has "
                f"{self.length}"
            )

    def __len__(self) -> int:
        return len(self.scenes) if self.targets else len(self._clips)

    def __getitem__(self, index: int) -> Record:
        if self.targets:
            return self.at(index, index)
        scene, start = self._clips[index]
        return self._record(index, scene, start, np.arange(self.length))

    def at(self, index: int, place: int) -> Record:
        if not self.targets:
            return self[index]
        rng = np.random.default_rng((self.seed, place))
        start = rng.integers(self.scenes.frames_of(index) - self.length + 1)
        drawn = rng.choice(self.length, self.targets, replace=False)
        return self._record(index, index, int(start), np.sort(drawn))

    def _record(self, index, scene, start, targets):
        given = np.arange(0, self.length, self.length // self.context)
        context, target = (
            self.scenes.frames(scene, start, start + which) for which in (given, targets)
        )
        record = {
            f"context_{name}": context[name] for name in ("video", "intrinsics", "pose", "time")
        }
        record |= {f"target_{name}": array for name, array in target.items()}
        return {**record, "id": np.int32(index)}

    @functools.cached_property
    def _clips(self) -> list[tuple[int, int]]:
        return [
            (scene, start)
            for scene in range(len(self.scenes))
            for start in range(0, self.scenes.frames_of(scene) - self.length + 1, self.length)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class StormFolder(OpenedLate):
    """Waymo's scenes as NVlabs/GaussianSTORM's preprocessing writes them.

    A list names a JSON file a scene: poses, intrinsics, times, paths of images. Beside the images,
    at datasets/waymo/<split>/<scene>/images_4/, lie depth_flows_4 (.npy, depth and flow in the
    car's axes), sky_masks_4, and, for evaluation, dynamic_masks/all and ground_label_4 (.png).

    Attributes:
        root: of the data.
        listing: of the JSON files, a line each, below the root.
        size: height and width that frames are brought to.
        cameras: 1, 3 or 5 of them, from left to right.
        evaluated: whether the masks for evaluation are read too.
    """

    root: pathlib.Path
    listing: str
    size: tuple[int, int] = (160, 240)
    cameras: int = 3
    evaluated: bool = False

    def __post_init__(self):
        if self.cameras not in _CAMERAS:
            raise ValueError(f"cameras: {self.cameras} is none of {sorted(_CAMERAS)}")

    def __len__(self) -> int:
        return len(self._scenes)

    def frames_of(self, scene: int) -> int:
        return self._scenes[scene]["num_timesteps"]

    def frames(self, scene: int, start: int, which: Sequence[int]) -> Record:
        known, path = self._scenes[scene], self._paths[scene]
        reads = [[self._read(known, path, start, k, c) for c in _CAMERAS[self.cameras]]
                 for k in map(int, which)]
        stack = lambda name: np.stack([np.stack([view[name] for view in row]) for row in reads])
        return {name: stack(name) for name in reads[0][0]}

    def _read(self, known, path, start, frame, camera) -> Record:
        height, width = self.size
        # Images are stored at a quarter of the cameras' size.
        name = known["relative_image_path"][camera][frame].replace("images", "images_4")
        image = self.root / "datasets" / "waymo" / name
        beside = lambda folder, suffix: _beside(image, folder, suffix)
        poses = known["camera_to_world"]
        from_world = np.linalg.inv(np.float64(poses[_FRONT][start]))
        to_front = from_world @ np.float64(poses[camera][frame])
        fx, fy, cx, cy = known["normalized_intrinsics"][camera]
        with _opened(image) as opened:
            video = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        depth_flow = _array(beside("depth_flows_4", ".npy"))
        # Flow comes in the car's axes.
        turn = (to_front @ np.linalg.inv(np.float64(known["camera_to_ego"][camera])))[:3, :3]
        mask = lambda folder: _mask(beside(folder, ".png"), self.size)
        times = known["normalized_time"]
        record = {
            "video": np.asarray(video),
            "intrinsics": np.float32(
                [[fx * width, 0, cx * width], [0, fy * height, cy * height], [0, 0, 1]]
            ),
            "pose": np.float32(to_front @ _FROM_OPENCV),
            "time": np.float32(times[frame] - times[start]),
            "depth": _coarser(depth_flow[..., :1], self.size)[..., 0],
            "sky": mask("sky_masks_4"),
            "flow": _coarser_flow(depth_flow[..., 1:], self.size) @ np.float32(turn).T,
        }
        if self.evaluated:
            record |= {"dynamic": mask("dynamic_masks/all"), "ground": mask("ground_label_4")}
        return record

    @functools.cached_property
    def _paths(self) -> list[pathlib.Path]:
        listing = self.root / self.listing
        if not listing.is_file():
            raise FileNotFoundError(f"{listing}: no such list of scenes")
        paths = [self.root / name for name in listing.read_text().split()]
        if not paths:
            raise ValueError(f"{listing}: names no scene")
        return paths

    @functools.cached_property
    def _scenes(self) -> list[dict[str, Any]]:
        return [_annotation(path, _CAMERAS[self.cameras]) for path in self._paths]


def load(
    source: str = "street",
    *,
    size: tuple[int, int] = (16, 24),
    cameras: int = 2,
    length: int = 20,
    context: int = 4,
    targets: int = 4,
    count_train: int = 100_000,
    count_test: int = 32,
    seed: int = 0,
) -> Splits:
    """Clips of scenes to train on, with drawn targets, and to test on, of which all is rendered.

    Args:
        source: "street": made ones; "storm:<root>": Waymo as GaussianSTORM prepares it.
        size, cameras: height and width of frames, and how many at a time.
        length, context, targets: see `SceneClips`.
        count_train, count_test: of made scenes.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, root = source.partition(":")
    if source == "street":
        train, test = (
            Street(count, tuple(size), cameras, length, seed=seed, split=split)
            for split, count in enumerate((count_train, count_test))
        )
    elif kind == "storm" and root:
        train, test = (
            StormFolder(pathlib.Path(root), f"scene_list/waymo_{split}.txt", tuple(size), cameras,
                        evaluated=split == "val")
            for split in ("train", "val")
        )
    else:
        raise ValueError(f"unknown source {source!r}; there are street, storm:<root>")
    return Splits(
        SceneClips(train, length, context, targets, seed),
        SceneClips(test, length, context, None, seed),
    )


def _annotation(path, cameras) -> dict[str, Any]:
    """A scene's JSON file, checked."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such scene")
    try:
        known = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if known.get("dataset") != "waymo":
        raise ValueError(f"{path}: dataset {known.get('dataset')!r} instead of 'waymo'")
    frames = known.get("num_timesteps")
    shapes = {
        "camera_to_world": (frames, 4, 4), "relative_image_path": (frames,),
        "camera_to_ego": (4, 4), "normalized_intrinsics": (4,),
    }  # fmt: skip
    for field, shape in shapes.items():
        for camera in {*cameras, _FRONT}:
            found = np.shape(known.get(field, {}).get(camera))
            if found != shape:
                raise ValueError(f"{path}: {field} of camera {camera}: {found} instead of {shape}")
    if np.shape(known.get("normalized_time")) != (frames,):
        raise ValueError(f"{path}: normalized_time: not {frames} of them")
    return known


def _beside(image: pathlib.Path, folder: str, suffix: str) -> pathlib.Path:
    return (image.parent.parent / folder / image.name).with_suffix(suffix)


def _opened(path: pathlib.Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    try:
        return Image.open(path)
    except OSError as error:
        raise ValueError(f"{path}: no image ({error})") from error


def _mask(path, size):
    with _opened(path) as image:
        return np.asarray(image.convert("L").resize(size[::-1])) > 0


def _array(path: pathlib.Path) -> Float[np.ndarray, "h w 4"]:
    """Depth and flow of a frame."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such depth and flow")
    array = np.load(path)
    if array.ndim != 3 or array.shape[-1] != 4:
        raise ValueError(f"{path}: {array.shape} instead of (height, width, 4), depth and flow")
    return array.astype(np.float32)


def _coarser(x: Float[np.ndarray, "h w c"], size: tuple[int, int]) -> Float[np.ndarray, "H W c"]:
    """The greatest of each cell of whole pixels, then the nearest: points are sparse."""
    if x.shape[:2] == size:
        return x
    rows, columns = (side // new for side, new in zip(x.shape, size))
    if rows and columns:
        x = x[: x.shape[0] // rows * rows, : x.shape[1] // columns * columns]
        x = x.reshape(x.shape[0] // rows, rows, -1, columns, x.shape[-1]).max((1, 3))
    rows, columns = (np.arange(new) * side // new for side, new in zip(x.shape, size))
    return x[rows][:, columns]


def _coarser_flow(flow, size):
    """As the published code: of what is slow nothing is seen, of the rest the greatest."""
    if flow.shape[:2] == size:
        return flow
    slow = np.linalg.norm(flow, axis=-1, keepdims=True) < _SLOW
    flow = _coarser(np.where(slow, np.float32(-1e5), flow), size)
    return np.where(np.linalg.norm(flow, axis=-1, keepdims=True) > 1000, 0, flow)
