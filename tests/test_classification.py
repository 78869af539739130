"""Recognition: the task, mixed batches, top-k errors, made motions, pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.data import digits, recognition
from stjax.data.motions import CLASSES, Motions
from stjax.metrics.classification import top_k_error
from stjax.ops import mixing
from stjax.tasks.classification import VideoClassification
from stjax.viz import classes as pictures
from tests import quick


class Means(nn.Module):
    """Logits are linear in a clip's mean; two heads in training if asked for."""

    heads: int = 1

    @nn.compact
    def __call__(self, video, *, train=False):
        heads = [nn.Dense(6)(video.mean((1, 2, 3, 4))[:, None]) for _ in range(self.heads)]
        return tuple(heads) if train and self.heads > 1 else heads[0]


def a_batch(views=(), count=4):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (count, *views, 3, 8, 9, 1), np.uint8)
    return {"video": video, "label": np.arange(count, dtype=np.int32)}


def test_views_are_samples_in_training_and_averaged_in_evaluation():
    task, key = VideoClassification(Means(), 6), jax.random.key(0)
    several, each = a_batch((2,)), []
    variables = task.init(key, several)
    loss = quick.jit(lambda batch: task.loss(variables, batch, key, 0)[0])
    predict = quick.jit(lambda batch: task.predict(variables, batch, key))
    for view in range(2):
        one = {**several, "video": several["video"][:, view]}
        each.append((loss(one), predict(one)))
    np.testing.assert_allclose(loss(several), np.mean([x for x, _ in each]), rtol=1e-6)
    scores = predict(several)
    np.testing.assert_allclose(scores, np.mean([p for _, p in each], 0), rtol=1e-6)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)
    by_logits = VideoClassification(Means(), 6, average="logits").predict(variables, several, key)
    wanted = jax.nn.softmax(np.mean([np.log(p) for _, p in each], 0))
    np.testing.assert_allclose(by_logits, wanted, rtol=1e-5)


def test_heads_are_averaged_and_targets_smoothed():
    task = VideoClassification(Means(heads=2), 6, smoothing=0.3)
    batch, key = a_batch(), jax.random.key(0)
    variables = task.init(key, batch)
    heads = task.model.apply(variables, task._views(batch)[0], train=True)
    target = 0.7 * np.eye(6)[batch["label"]] + 0.3 / 6
    wanted = np.mean([-(target * jax.nn.log_softmax(head)).sum(1) for head in heads])
    np.testing.assert_allclose(task.loss(variables, batch, key, 0)[0], wanted, rtol=1e-6)


def test_trivial_predictors_know_the_training_batches():
    task = VideoClassification(Means(), 6)
    batch = a_batch(count=3)
    batch["label"] = np.array([4, 4, 2], np.int32)
    trivial = task.trivial(task.summary(batch), batch)
    assert set(trivial) == {
        "class_prior", "nearest_mean_clip", "nearest_mean_frame", "nearest_mean_difference"
    }
    np.testing.assert_array_equal(trivial.pop("class_prior").argmax(1), 4)
    for scores in trivial.values():  # classes that never came are never chosen
        np.testing.assert_array_equal(scores.argmax(1), batch["label"])


def test_top_k_error():
    scores = jnp.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    labels = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(top_k_error(scores, labels), [1, 0, 1])
    np.testing.assert_array_equal(top_k_error(scores, labels, 2), [0, 0, 0])


def test_a_mixed_batch_is_of_itself_and_its_reversal():
    video = jnp.arange(4.0)[:, None, None, None, None] * jnp.ones((4, 2, 8, 10, 1))
    targets = mixing.smoothed(jnp.arange(4), 4)
    mix = quick.jit(lambda key, *batch: mixing.mix(key, *batch, 0.8, 1.0))
    kinds = set()
    for seed in range(12):
        mixed, wanted = mix(jax.random.key(seed), video, targets)
        np.testing.assert_allclose(wanted.sum(1), 1, rtol=1e-6)
        # A clip's mean tells the share of each of its two, and the targets say the same.
        np.testing.assert_allclose(mixed.mean((1, 2, 3, 4)), wanted @ np.arange(4), rtol=1e-4)
        kinds.add(len(np.unique(mixed[0])) > 1)
        np.testing.assert_array_equal(mixed[:, 0], mixed[:, 1])
    assert kinds == {True, False}
    same, _ = mixing.mix(jax.random.key(0), video, targets, 0.0, 0.0)
    assert same is video


def test_erased_boxes():
    video = jnp.full((64, 2, 20, 30, 1), 9.0)
    erase = quick.jit(mixing.erase)
    erased = np.asarray(erase(jax.random.key(0), video, 1.0) != 9)
    share = erased.mean((1, 2, 3, 4))
    assert np.all((share > 0.01) & (share < 0.36))
    np.testing.assert_array_equal(erased[:, 0], erased[:, 1])
    rows, columns = erased[:, 0, ..., 0].any(2), erased[:, 0, ..., 0].any(1)
    np.testing.assert_allclose(rows.mean(1) * columns.mean(1), share, rtol=1e-5)  # one box
    np.testing.assert_array_equal(erase(jax.random.key(0), video, 0.0), video)
    some = np.asarray(erase(jax.random.key(1), video, 0.5) != 9).any((1, 2, 3, 4))
    assert 16 < some.sum() < 48


def test_motions_are_pure_and_told_by_no_frame():
    images, _ = digits.load("sklearn")
    clips = Motions(images, 16, 6, 640)
    record = clips[9]
    np.testing.assert_array_equal(record["video"], clips[9]["video"])
    assert {k: (v.shape, v.dtype) for k, v in record.items()} == {
        k: (v.shape, v.dtype) for k, v in clips.spec.items()
    }
    assert not np.array_equal(record["video"], Motions(images, 16, 6, 640, (1,))[9]["video"])
    task = VideoClassification(Means(), len(CLASSES), CLASSES)
    batch = lambda span: {
        key: np.stack([clips[i][key] for i in span]) for key in ("video", "label")
    }
    training, test = batch(range(400)), batch(range(400, 640))
    score = lambda summary, batch: {
        name: task.metrics(scores, batch)["top1_error"][0].mean()
        for name, scores in task.trivial(summary, batch).items()
    }
    errors = quick.jit(score)(quick.jit(task.summary)(training), test)
    assert all(0.7 < error < 1 for error in errors.values()), errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 5}, "^data.classes: 5; 'motions' has 8"),
        ({"source": "youtube"}, "^unknown source 'youtube'"),
        ({"source": "folders:"}, "^unknown source"),
    ],
)
def test_data_that_there_are_not(options, message):
    with pytest.raises(ValueError, match=message):
        recognition.load(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "votes"}, "^task.average: 'votes'"),
        ({"names": ("a",)}, "^task.names: 1 names of 6"),
    ],
)
def test_task_errors(options, message):
    with pytest.raises(ValueError, match=message):
        VideoClassification(Means(), 6, **options)
    with pytest.raises(ValueError, match="wanted"):
        VideoClassification(Means(), 6).init(jax.random.key(0), {"video": np.zeros((2, 3, 8, 8))})


def test_pictures():
    task = VideoClassification(Means(), 6, tuple("abcdef"))
    batch = {**a_batch((2,)), "weight": np.array([1, 1, 1, 0])}
    drawn = task.render(np.eye(6)[[0, 2, 2, 5]], batch)
    assert all(x.dtype == np.uint8 and x.shape[-1] == 3 for x in drawn.values())
    right = (drawn["confusion"] == pictures._RIGHT).all(-1).sum()
    wrong = (drawn["confusion"] == pictures._WRONG).all(-1).sum()
    # Two classes are right and one is wrong; the padded clip counts nowhere.
    assert right > 1.5 * wrong > 0
