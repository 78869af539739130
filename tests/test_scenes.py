"""Scenes: the made street is one, Waymo's files are read, clips are drawn as they should."""

import json

import numpy as np
import pytest
from PIL import Image

from stjax.data import scenes
from stjax.data.street import Street

FRAMES, CAMERAS = 6, ("1", "0", "2")


def test_the_street_is_a_function_of_seed_split_and_number():
    street = Street(4, cameras=3)
    first, again = (street.frames(1, 0, [0, 7]) for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    others = street.frames(2, 0, [0]), Street(4, cameras=3, split=1).frames(1, 0, [0])
    assert all((first["video"][:1] != other["video"]).any() for other in others)
    assert first["video"].shape == (2, 3, 16, 24, 3)
    assert (first["depth"][first["sky"]] == 0).all()
    assert not first["flow"][~first["dynamic"]].any()
    assert (np.linalg.norm(first["flow"][first["dynamic"]], axis=-1) > 0.9).all()


def test_points_of_the_street_are_found_again_where_their_velocity_takes_them():
    """Moved by their flow into a later frame they have its depth, and its colour."""
    found, same_colour = [], []
    for k in range(4):
        seen = Street(4, size=(48, 72), cameras=1).frames(k, 0, [0, 4])
        height, width = seen["depth"].shape[2:]
        intrinsics, poses = seen["intrinsics"][0, 0], seen["pose"][:, 0]
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(intrinsics).T
        depth = seen["depth"][0, 0]
        points = (rays * depth[..., None]) @ poses[0, :3, :3].T + poses[0, :3, 3]
        points += seen["flow"][0, 0] * (seen["time"][1, 0] - seen["time"][0, 0])
        there = (points - poses[1, :3, 3]) @ poses[1, :3, :3]
        there = there[depth > 0]
        pixels = np.floor((there / there[:, 2:] @ intrinsics.T)[:, :2]).astype(int)
        inside = ((pixels >= 0) & (pixels < (width, height))).all(1) & (there[:, 2] > 0.5)
        column, row = pixels[inside].T
        close = abs(seen["depth"][1, 0, row, column] / there[inside, 2] - 1) < 0.1
        found.append(close.mean())
        colours = seen["video"][0, 0][depth > 0][inside] / 255.0
        away = abs(colours - seen["video"][1, 0, row, column] / 255.0).max(-1)
        same_colour.append(np.median(away[close]))
    assert np.mean(found) > 0.85  # some are hidden by then
    assert max(same_colour) < 0.06


def test_clips_have_even_context_and_drawn_targets():
    splits = scenes.load("street", targets=3, count_train=5, count_test=2)
    train = splits.train
    record, other = train.at(2, 10), train.at(2, 11)
    assert (record["context_time"][:, 0] == np.float32([0, 0.5, 1, 1.5])).all()
    assert (np.diff(record["target_time"][:, 0]) > 0).all()
    assert (record["target_time"] != other["target_time"]).any()
    for name, array in train.at(2, 10).items():
        np.testing.assert_array_equal(array, record[name])
    assert splits.test[1]["target_video"].shape == (20, 2, 16, 24, 3)
    assert len(splits.test) == 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A street in GaussianSTORM's layout: the world's axes are others, flow is in the car's."""
    root = tmp_path_factory.mktemp("storm")
    (root / "annotations").mkdir()
    (root / "scene_list").mkdir()
    made = Street(1, size=(32, 48), cameras=3, length=FRAMES).frames(0, 0, range(FRAMES))
    for split, name in (("train", "a"), ("val", "b")):
        (root / f"scene_list/waymo_{split}.txt").write_text(f"annotations/{name}.json\n")
        (root / f"annotations/{name}.json").write_text(json.dumps(annotation(made, name)))
        write(made, root / "datasets/waymo/training" / name)
    return root


def annotation(made, name):
    turn = np.array([[0, -1.0, 0, 5], [1, 0, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]])
    world = turn @ made["pose"] @ np.linalg.inv(scenes._FROM_OPENCV)
    # The car's axes are those of its front camera, a metre before it.
    ahead = np.eye(4)
    ahead[0, 3] = -1
    ego = ahead @ np.linalg.inv(world[0, 1]) @ world[0]
    sizes = [48, 32, 48, 32]
    intrinsics = made["intrinsics"][0][:, [0, 1, 0, 1], [0, 1, 2, 2]] / sizes
    of_cameras = lambda arrays: {c: arrays[v].tolist() for v, c in enumerate(CAMERAS)}
    return {
        "dataset": "waymo", "scene_name": name, "num_timesteps": FRAMES, "fps": 10,
        "normalized_time": [k / 10 for k in range(FRAMES)],
        "camera_to_world": of_cameras(world.swapaxes(0, 1)),
        "camera_to_ego": of_cameras(ego),
        "normalized_intrinsics": of_cameras(intrinsics),
        "relative_image_path": {
            c: [f"training/{name}/images/{k:03}_{c}.jpg" for k in range(FRAMES)] for c in CAMERAS
        },
    }


def write(made, folder):
    masks = {"sky_masks_4": "sky", "dynamic_masks/all": "dynamic", "ground_label_4": "ground"}
    for part in ("images_4", "depth_flows_4", *masks):
        (folder / part).mkdir(parents=True)
    for k, v in np.ndindex(FRAMES, len(CAMERAS)):
        name = f"{k:03}_{CAMERAS[v]}"
        image = Image.fromarray(made["video"][k, v])
        image.save(folder / f"images_4/{name}.jpg", quality=98, subsampling=0)
        both = np.concatenate([made["depth"][k, v][..., None], made["flow"][k, v]], -1)
        np.save(folder / f"depth_flows_4/{name}.npy", both)
        for part, which in masks.items():
            mask = Image.fromarray(np.uint8(255 * made[which][k, v]))
            mask.save(folder / part / f"{name}.png")


def read(root, size=(32, 48), **options):
    return scenes.load(f"storm:{root}", size=size, cameras=3, length=6, context=2, **options)


def test_waymo_as_gaussian_storm_writes_it(root):
    """The street comes back, whatever the world's axes are, and of half its size."""
    made = Street(1, size=(32, 48), cameras=3, length=FRAMES).frames(0, 0, range(FRAMES))
    record = read(root, targets=2).test[0]
    for name in ("intrinsics", "pose", "time", "depth", "flow"):
        np.testing.assert_allclose(record[f"target_{name}"], made[name], atol=2e-4)
    for name in ("sky", "dynamic", "ground"):
        np.testing.assert_array_equal(record[f"target_{name}"], made[name])
    assert np.abs(record["target_video"].astype(int) - made["video"]).mean() < 3
    train = read(root, targets=2).train.at(0, 3)
    assert train["target_video"].shape == (2, 3, 32, 48, 3)
    assert "target_dynamic" not in train
    half = read(root, (16, 24), targets=2).test[0]
    np.testing.assert_allclose(half["target_intrinsics"][..., :2, :],
                               record["target_intrinsics"][..., :2, :] / 2, rtol=1e-5)
    cells = made["depth"].reshape(FRAMES, 3, 16, 2, 24, 2).max((3, 5))
    np.testing.assert_array_equal(half["target_depth"], cells)
    fast = np.linalg.norm(half["target_flow"], axis=-1) > 0
    assert (fast <= made["dynamic"].reshape(FRAMES, 3, 16, 2, 24, 2).any((3, 5))).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset", "kitti", "dataset 'kitti' instead of 'waymo'"),
        ("normalized_time", [0.0], "normalized_time: not 6"),
        ("camera_to_ego", {}, r"camera_to_ego of camera \d: \(\) instead of \(4, 4\)"),
    ],
)
def test_annotations_that_are_wrong_are_named(root, field, value, message):
    path = root / "annotations/b.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(text), field: value}))
        with pytest.raises(ValueError, match=rf"b.json: {message}"):
            read(root)
    finally:
        path.write_text(text)


def test_files_that_are_missing_or_wrong_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"waymo_train.txt: no such list"):
        scenes.load(f"storm:{tmp_path}", cameras=3)
    with pytest.raises(ValueError, match="unknown source 'lidar'; there are street, storm:<root>"):
        scenes.load("lidar")
    clips = read(root).test
    path = root / "datasets/waymo/training/b/depth_flows_4/000_1.npy"
    array = np.load(path)
    try:
        np.save(path, array[..., :3])
        with pytest.raises(ValueError, match=r"000_1.npy: \(32, 48, 3\) instead of .*4\)"):
            clips[0]
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"000_1.npy: no such depth and flow"):
            clips[0]
    finally:
        np.save(path, array)


@pytest.mark.parametrize("options", [{"length": 10}, {"context": 3}, {"targets": 9}])
def test_clips_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="frames"):
        scenes.SceneClips(Street(1, length=8), **{"length": 8, "context": 4, **options})
