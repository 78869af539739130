"""Masks: the data they come with, how they are learned, scored, guessed trivially and drawn."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from stjax.data import echo, pipeline
from stjax.data.heart import BeatingHeart
from stjax.metrics.segmentation import contour, distances, overlaps, surface_distances
from stjax.ops.objects import aggregate, others
from stjax.ops.points import at_points, uncertain_points
from stjax.ops.positions import sinusoid_map
from stjax.tasks.losses import point_losses
from stjax.tasks.segmentation import VideoSegmentation
from tests import quick

LENGTH = 4


def blobs(count, seed=0, size=(17, 23)):
    """Masks of a few lumps, some of which reach the frame's edge."""
    noise = np.random.default_rng(seed).normal(size=(count, *size))
    return ndimage.gaussian_filter(noise, (0, 3, 3)) > 0.05


# What masks are scored by.


def reference(predicted, true):
    """MONAI's definitions by scipy."""
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (predicted, true)]
    far = [ndimage.distance_transform_edt(~edge) for edge in edges]
    there, back = far[1][edges[0]], far[0][edges[1]]
    worst = max(np.percentile(there, 95), np.percentile(back, 95))
    return {"hd95": worst, "assd": np.concatenate([there, back]).mean()}


def test_distances_are_those_of_scipy():
    predicted, true = blobs(6), blobs(6, seed=1)
    for mask, edge in zip(predicted, quick.jit(contour)(predicted)):
        np.testing.assert_array_equal(edge, mask ^ ndimage.binary_erosion(mask))
    found = quick.jit(distances)(true)
    for mask, far in zip(true, found):
        np.testing.assert_allclose(far, ndimage.distance_transform_edt(~mask), rtol=1e-6)
    scores = quick.jit(surface_distances)(predicted, true)
    for k in range(len(true)):
        for name, value in reference(predicted[k], true[k]).items():
            assert scores[name][k] == pytest.approx(value, rel=1e-5), name


def test_scores_of_one_pixel_and_of_nothing():
    nothing, one, two = np.zeros((3, 3, 4), bool)
    one[0, 0] = two[0, 0] = two[0, 3] = True
    predicted, true = np.stack([one, nothing, one]), np.stack([two, nothing, nothing])
    found = quick.jit(lambda *masks: {**overlaps(*masks), **surface_distances(*masks)})(
        predicted, true
    )
    expected = {
        "dice": [2 / 3, 1, 0], "iou": [1 / 2, 1, 0],
        "precision": [1, 1, 0], "recall": [1 / 2, 1, 1],
        "specificity": [1, 1, 11 / 12], "accuracy": [11 / 12, 1, 11 / 12],
        # From the one pixel 0; from the two 0 and 3. The frame's diagonal where there is nothing.
        "hd95": [0.95 * 3, 0, 5], "assd": [1, 0, 5],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


# What they are learned by.


def test_points_are_taken_between_pixels_and_where_the_map_wavers():
    ramp = jnp.linspace(-1, 1, 5)[None, None, :, None] * jnp.ones((1, 5, 1, 1))
    corner = jnp.array([[[0.5, 0.1], [0.5, 0.2], [0.5, 0.0]]])
    read = quick.jit(at_points)(ramp, corner)[0, :, 0]
    np.testing.assert_allclose(read, [-1, -0.75, -0.5], atol=1e-6)
    choose = quick.jit(uncertain_points, static_argnums=2)
    logits = jnp.concatenate([-ramp, ramp], -1)
    candidates = jnp.stack([jnp.full(9, 0.5), jnp.linspace(0.1, 0.9, 9)], -1)[None]
    chosen = choose(logits, candidates, 3)[0, :, 1]
    assert chosen[0] == pytest.approx(0.5)
    assert sorted(np.round(np.asarray(chosen), 1).tolist()) == pytest.approx([0.4, 0.5, 0.6])
    three = jnp.array([[[[3.0, 0, 1], [2, 2.5, 0], [0, 0, 9]]]])
    middle = choose(three, jnp.array([[[0.5, 1 / 6], [0.5, 0.5], [0.5, 5 / 6]]]), 1)
    np.testing.assert_allclose(middle, [[[0.5, 0.5]]])


def test_unlabelled_frames_teach_nothing():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 2, 4, 4, 2)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 2, (2, 2, 8, 8)))
    draw = lambda count: jnp.asarray(rng.uniform(size=(2, 2, count, 2)), jnp.float32)
    draws = draw(12), draw(2)
    labelled = jnp.array([[1.0, 0], [1, 0]])
    run = quick.jit(lambda labels, weights: point_losses(logits, labels, *draws, 4, weights))
    half = run(labels, labelled)
    np.testing.assert_allclose(half, run(labels.at[:, 1].set(0), labelled))
    whole = run(labels, jnp.ones((2, 2)))
    late = run(labels, 1 - labelled)
    np.testing.assert_allclose(whole, np.add(half, late), rtol=1e-5)


def test_objects_and_their_background():
    found = aggregate(jnp.array([0.2, 0.9]))
    np.testing.assert_allclose(found, [-2.442347, -1.386294, 2.197224], rtol=1e-5)
    masks = jnp.array([[[1.0, 0, 0.7]]])
    np.testing.assert_allclose(others(masks)[0, 0], [0.7, 1, 1], rtol=1e-6)


def test_codes_of_a_map_run_from_edge_to_edge():
    codes = sinusoid_map(3, 5, 8, scale=32, base=128)
    assert codes.shape == (3, 5, 8)
    np.testing.assert_array_equal(codes[0, 2, :4], codes[2, 2, :4])  # columns first
    np.testing.assert_allclose(codes[-1, -1, [0, 4]], np.sin(32), atol=1e-4)
    np.testing.assert_allclose(codes[0, 0], [0, 1] * 4)
    with pytest.raises(ValueError, match=r"^features: 6 is no multiple of 4"):
        sinusoid_map(3, 3, 6, scale=1, base=2)


# The task.


class Threshold(nn.Module):
    """Says what is dark, and at the prompt's places what was shown."""

    @nn.compact
    def __call__(self, video, prompt=None, *, train=False):
        level = self.param("level", nn.initializers.constant(-0.5), ())
        logits = 9 * (level - video)
        if prompt is not None:
            logits = logits + 9 * (prompt[:, None] - 0.5)
        logits = jnp.concatenate([-logits, logits], -1)
        return logits, {"coarse": logits[:, :, ::4, ::4]}


def batch(count=6, size=32):
    source = BeatingHeart(count, LENGTH, size)
    return next(pipeline(source, count))


def test_a_task_learns_from_its_frames_and_scores_all_labelled_ones():
    task = VideoSegmentation(Threshold(), points=64)
    data = batch()
    variables = task.init(jax.random.key(0), data)
    run = quick.jit(
        jax.value_and_grad(
            lambda params, data: task.loss({"params": params}, data, jax.random.key(1), 0)[0]
        )
    )
    value, grads = run(variables["params"], data)
    middle = {**data, "mask": np.array(data["mask"])}
    middle["mask"][:, 1:-1] = 0
    assert run(variables["params"], middle)[0] == value
    assert np.isfinite(grads["level"])
    assert grads["level"] != 0
    score = quick.jit(task.metrics)
    scores = score(jax.nn.one_hot(data["mask"], 2), data)
    for name, best in (("dice_error", 0), ("iou", 1), ("hd95", 0)):
        np.testing.assert_allclose(scores[name][0], best, atol=1e-6)
    np.testing.assert_array_equal(scores["dice"][1], np.full(6, LENGTH))
    ends = {**data, "labelled": np.tile(np.float32([1, 0, 0, 1]), (6, 1))}
    worse = np.array(jax.nn.one_hot(data["mask"], 2))
    worse[:, 1:-1] = (1, 0)
    np.testing.assert_allclose(score(worse, ends)["dice"][0], 1)
    np.testing.assert_allclose(score(worse, data)["dice"][0], 0.5)


def test_trivial_predictors_and_pictures():
    task = VideoSegmentation(Threshold(), prompted=True)
    data = batch()
    summary = quick.jit(task.summary)(data)
    trivial = quick.jit(task.trivial)(summary, data)
    assert {"mean_shape", "first_mask", "brightness_3_and_shape"} <= set(trivial)
    score = quick.jit(lambda guess: task.metrics(guess, data)["dice"][0].mean())
    dice = {name: float(score(guess)) for name, guess in trivial.items()}
    assert max(dice.values()) > 0.5
    assert dice["brightness_9_and_shape"] > dice["brightness_9"]
    np.testing.assert_allclose(trivial["mean_shape"][0], summary["place"] / 6, atol=1e-6)
    pictures = task.render(np.asarray(trivial["first_mask"]), data)
    assert pictures["masks"].ndim == 3
    assert pictures["moving"].shape[0] == LENGTH
    colours = {tuple(pixel) for pixel in pictures["masks"].reshape(-1, 3)}
    assert {(86, 180, 233), (230, 159, 0)} <= colours


def test_masks_of_another_size_are_named():
    data = batch()
    with pytest.raises(ValueError, match=r"batch\['mask'\] \(6, 4, 31, 32\) of batch\['video'\]"):
        VideoSegmentation(Threshold()).init(
            jax.random.key(0), {**data, "mask": data["mask"][:, :, 1:]}
        )


# Made and stored hearts.


def test_made_hearts_are_functions_of_their_number_and_beat():
    hearts, again = BeatingHeart(3), BeatingHeart(9)
    np.testing.assert_array_equal(hearts[2]["video"], again[2]["video"])
    assert not np.array_equal(hearts[2]["video"], BeatingHeart(3, seed=(1,))[2]["video"])
    area = hearts[1]["mask"].sum((1, 2))
    assert area.min() < 0.75 * area[0]
    assert area.argmin() not in (0, 9)
    video, mask = BeatingHeart(1, missed=0.0)[0]["video"][..., 0], BeatingHeart(1)[0]["mask"]
    assert video[mask == 1].mean() < 0.6 * video[(mask == 0) & (video > 0)].mean()
    with pytest.raises(IndexError):
        hearts[3]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def frame(k, size=(12, 16)):
    return np.full(size, 10 * k, np.uint8)


@pytest.fixture
def camus(tmp_path):
    """Two patients, of whom one has more frames than a clip; masks of the ends."""
    for patient, frames in (("patient0001", 6), ("patient0002", LENGTH)):
        for k in range(frames):
            write(tmp_path / f"img/{patient}/{k:04d}.png", frame(k))
            if k in (0, LENGTH - 1, 5):
                row = np.where(np.arange(16) < 4 + k, 1, 2).astype(np.uint8)
                write(tmp_path / f"gt_lv/{patient}/{k:04d}.png", np.tile(row, (12, 1)))
    split = {"train_data": ["patient0001"], "val_data": [], "test_data": ["patient0002"]}
    (tmp_path / "camus_public_datasplit.json").write_text(json.dumps(split))
    return tmp_path


def test_camus_as_prepared(camus):
    splits = echo.load(f"camus:{camus}", length=LENGTH, size=8, turn=10.0)
    assert (len(splits.train), len(splits.test)) == (1, 1)
    record = splits.test[0]
    assert record["video"].shape == (LENGTH, 8, 8, 1)
    np.testing.assert_array_equal(record["video"][:, 4, 4, 0], [0, 10, 20, 30])
    np.testing.assert_array_equal(record["labelled"], [1, 0, 0, 1])
    np.testing.assert_array_equal(record["mask"][0, 3], np.arange(8) < 2)
    assert not record["mask"][1].any()
    drawn = [splits.train.at(0, place) for place in range(12)]
    starts = {int(x["video"][:, 4, 4].max()) for x in drawn}
    assert len(starts) == 3
    assert any(x["mask"][0][:, 7].any() for x in drawn if x["labelled"][0])  # mirrored
    np.testing.assert_array_equal(drawn[3]["video"], splits.train.at(0, 3)["video"])
    spec = splits.train.spec
    assert {k: (v.shape, v.dtype) for k, v in spec.items()} == {
        k: (v.shape, v.dtype) for k, v in record.items()
    }


@pytest.fixture
def echonet(tmp_path):
    for split in ("train", "test"):
        for k in range(LENGTH):
            write(tmp_path / f"{split}/img/0X1A/{k}.png", frame(k))
        for k in range(2):
            write(tmp_path / f"{split}/label/0X1A/{k}.png", np.full((12, 16), k, np.uint8))
    return tmp_path


def test_echonet_as_prepared(echonet):
    record = echo.load(f"echonet:{echonet}", length=LENGTH, size=8).train.at(0, 5)
    np.testing.assert_array_equal(record["labelled"], [1, 0, 0, 1])
    np.testing.assert_array_equal(record["mask"].mean((1, 2)), [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda at: (at / "test/img/0X1A/2.png").unlink(), "test/img/0X1A: 3 frames instead of 4"),
        (lambda at: (at / "test/label/0X1A/1.png").unlink(), "label/0X1A: 1 masks instead of 2"),
        (
            lambda at: write(at / "test/img/0X1A/2.png", frame(2, (9, 16))),
            r"img/0X1A/2.png: \(9, 16\), and the first frame \(12, 16\)",
        ),
        (
            lambda at: write(at / "test/label/0X1A/1.png", frame(0, (9, 16))),
            r"label/0X1A/1.png: mask \(9, 16\) of frames \(12, 16\)",
        ),
        (
            lambda at: write(at / "test/label/0X1A/1.png", frame(25)),
            r"label/0X1A/1.png: values \[250\]; 1 would be the ventricle",
        ),
        (
            lambda at: (at / "test/img/0X1A/1.png").write_bytes(
                (at / "test/img/0X1A/1.png").read_bytes()[:40]
            ),
            "img/0X1A/1.png: no image that can be read",
        ),
    ],
)
def test_what_is_wrong_with_echonet_is_named(echonet, harm, message):
    harm(echonet)
    with pytest.raises(ValueError, match=message):
        echo.load(f"echonet:{echonet}", length=LENGTH, size=8).test[0]


def test_what_is_missing_is_named(camus, tmp_path):
    test = lambda **options: echo.load(f"camus:{camus}", **{"length": LENGTH, **options}).test[0]
    with pytest.raises(ValueError, match="img/patient0002: 4 frames, and a clip has 5"):
        test(length=5)
    with pytest.raises(FileNotFoundError, match="nowhere: 0 files"):
        len(echo.load("camus:nowhere").test)
    with pytest.raises(FileNotFoundError, match="nowhere/test/img: no such folder"):
        len(echo.load("echonet:nowhere").test)
    with pytest.raises(ValueError, match=r"data.source: 'mri' is none of heart, camus:<folder>"):
        echo.load("mri")
    with pytest.raises(ValueError, match=r"data.split: 'dev' is neither"):
        echo.load(split="dev")
    (camus / "gt_lv/patient0002/0003.png").rename(camus / "gt_lv/patient0002/0009.png")
    with pytest.raises(ValueError, match=r"gt_lv/patient0002/0009.png: no frame of that name"):
        test()
    (camus / "camus_public_datasplit.json").write_text("{}")
    with pytest.raises(ValueError, match=r"camus_public_datasplit.json: no list 'test_data'"):
        test()
