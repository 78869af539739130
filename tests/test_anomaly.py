"""Data to find anomalies in, in its real formats, and the numbers that say how well."""

import numpy as np
import pytest
import scipy.io
from PIL import Image
from sklearn import metrics as sklearn_metrics

from stjax.data import anomaly, pipeline
from stjax.data.surveillance import Surveillance
from stjax.metrics import anomaly as metrics

LENGTHS = (7, 6)


def made(folder, length, suffix="tif", size=(12, 8)):
    """A folder of grey frames, whose pixels say which frame it is; returns them."""
    folder.mkdir(parents=True)
    frames = np.arange(length)[:, None, None] * 10 + np.zeros((1, *size), np.uint8)
    for k, frame in enumerate(frames.astype(np.uint8)):
        Image.fromarray(frame).save(folder / f"{k + 1:03d}.{suffix}")
    return frames


@pytest.fixture
def ucsd(tmp_path):
    for k, length in enumerate(LENGTHS):
        made(tmp_path / f"Train/Train00{k + 1}", length)
        made(tmp_path / f"Test/Test00{k + 1}", length)
    (tmp_path / "Test/Test001/._001.tif").write_bytes(b"no image")
    (tmp_path / "Test/UCSDped2.m").write_text(
        "%% ground truth\nTestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [3:5, 7:7];\n"
        "TestVideoFile{end+1}.gt_frame = [1:6];  % all of it [9:9]\n"
    )
    return tmp_path


def test_ucsd_as_distributed(ucsd):
    splits = anomaly.load(f"ucsd:{ucsd}", context=4, size=8, channels=3)
    assert len(splits.train) == len(splits.test) == 3 + 2
    records = [splits.test[k] for k in range(5)]
    assert [int(r["clip"]) for r in records] == [0, 0, 0, 1, 1]
    assert [int(r["frame"]) for r in records] == [4, 5, 6, 4, 5]
    assert [int(r["label"]) for r in records] == [1, 0, 1, 1, 1]
    assert records[1]["video"].shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(records[1]["video"][:, 0, 0, 0], [10, 20, 30, 40, 50])
    assert not any(splits.train[k]["label"] for k in range(5))
    (batch,) = pipeline(splits.test, 5)
    assert batch["video"].shape == (5, 5, 8, 8, 3)


def test_ucsd_by_its_masks(ucsd):
    (ucsd / "Test/UCSDped2.m").unlink()
    for k, length in enumerate(LENGTHS):
        folder = ucsd / f"Test/Test00{k + 1}_gt"
        made(folder, length, "bmp")
        for index, path in enumerate(sorted(folder.iterdir())):
            mask = np.zeros((12, 8), np.uint8)
            mask[3, 2] = 255 * (index == 5)
            Image.fromarray(mask).save(path)
    test = anomaly.load(f"ucsd:{ucsd}", context=4, size=8).test
    assert [int(test[k]["label"]) for k in range(5)] == [0, 1, 0, 0, 1]
    (ucsd / "Test/Test002_gt/001.bmp").unlink()
    with pytest.raises(ValueError, match="Test002: 6 frames and 5 labels"):
        anomaly.load(f"ucsd:{ucsd}")


@pytest.fixture
def frames(tmp_path):
    for k, length in enumerate(LENGTHS):
        made(tmp_path / f"training/frames/0{k + 1}", length, "jpg")
        made(tmp_path / f"testing/frames/0{k + 1}", length, "jpg")
    return tmp_path


def test_frame_folders_with_a_table_or_masks(frames):
    with pytest.raises(FileNotFoundError, match=r"neither \*.mat nor"):
        anomaly.load(f"frames:{frames}")
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.array([[1, 6], [2, 6]]), np.array([[5], [5]])
    scipy.io.savemat(frames / "avenue.mat", {"gt": cells})
    labels = lambda: [int(r["label"]) for r in map(test.__getitem__, range(5))]
    test = anomaly.load(f"frames:{frames}", size=8).test
    assert labels() == [0, 1, 0, 1, 0]
    folder = frames / "testing/test_frame_mask"
    folder.mkdir()
    np.save(folder / "01.npy", np.arange(7) == 6)
    np.save(folder / "02.npy", np.arange(6) == 4)
    test = anomaly.load(f"frames:{frames}", size=8).test
    assert labels() == [0, 0, 1, 1, 0]
    (folder / "02.npy").unlink()
    with pytest.raises(ValueError, match="truth of 1 clips for 2 in testing/frames"):
        anomaly.load(f"frames:{frames}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TestVideoFile{end+1}.gt_frame = [1:2];", "UCSDped2.m: gt_frame of 1 clips, and there ar"),
        ("x.gt_frame = [1:2];\nx.gt_frame = [3:9];", "UCSDped2.m, clip 2: frames 3 to 9 of 6"),
    ],
)
def test_truth_that_does_not_fit_is_named(ucsd, text, message):
    (ucsd / "Test/UCSDped2.m").write_text(text)
    with pytest.raises(ValueError, match=message):
        anomaly.load(f"ucsd:{ucsd}")


def test_what_is_missing_or_broken_is_named(ucsd, tmp_path):
    with pytest.raises(ValueError, match=r"data.source: 'ped2' is none of surveillance, ucsd"):
        anomaly.load("ped2")
    with pytest.raises(FileNotFoundError, match=r"nowhere/Train: no folders Train\*"):
        anomaly.load(f"ucsd:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match=r"clip 1: 6 frames, and context \+ 1 is 7"):
        anomaly.load(f"ucsd:{ucsd}", context=6)
    (ucsd / "Test/Test001/003.tif").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"Test001/003.tif: no image that can be read"):
        anomaly.load(f"ucsd:{ucsd}").test[0]


def test_made_clips_are_functions_of_their_number():
    clips = Surveillance(4, 40, abnormal=True)
    again = Surveillance(9, 40, abnormal=True)
    np.testing.assert_array_equal(clips.frames(2, 5, 9), again.frames(2, 0, 40)[5:9])
    assert not np.array_equal(clips.frames(2, 0, 4), clips.frames(3, 0, 4))
    assert not np.array_equal(clips.frames(0, 0, 4), Surveillance(4, 40, seed=1).frames(0, 0, 4))
    for k in range(4):
        (odd,) = np.nonzero(clips.labels(k))
        assert 10 <= len(odd) < 20
        assert np.all(np.diff(odd) == 1)
    assert not Surveillance(4, 40).labels(0).any()


def test_someone_stands_still_and_someone_walks_the_wrong_way():
    clips = Surveillance(40, 40, abnormal=True)
    walkers, _, labels = clips._clip(1)
    steps = np.diff(walkers[0][:, 0])
    assert np.all(steps[labels[1:]] == 0)
    walkers, _, labels = clips._clip(0)
    turned = np.sign(np.diff(walkers[0][:, 0]))[labels[1:]]
    assert np.all(turned == turned[0])
    assert turned[0] == -np.sign(np.diff(walkers[0][:, 0])[:2]).sum() / 2


def test_trivial_scores_say_little_of_made_clips():
    test = anomaly.load("surveillance").test
    records = [test[k] for k in range(len(test))]
    video = np.stack([r["video"] for r in records]) / 255.0
    labels, clip = (np.array([r[name] for r in records]) for name in ("label", "clip"))
    past, true = video[:, :-1], video[:, -1]
    predictions = {
        "copy_last": past[:, -1],
        "linear": np.clip(2 * past[:, -1] - past[:, -2], 0, 1),
        "context_mean": past.mean(1),
        "mean": np.broadcast_to(video.mean((0, 1)), true.shape),
        "blank": np.zeros_like(true),
    }
    for name, predicted in predictions.items():
        scores = metrics.regularity(np.asarray(metrics.psnr(predicted, true)), clip)
        area = metrics.auc(scores, labels)
        assert max(area, 1 - area) < 0.65, name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("values", [5, 1000])
def test_curves_are_those_of_scikit_learn(seed, values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(values, size=80) / values
    labels = rng.integers(2, size=80)
    false, true, _ = sklearn_metrics.roc_curve(labels, scores, pos_label=0)
    ours = metrics.roc(scores, labels)
    np.testing.assert_allclose(ours[0], false)
    np.testing.assert_allclose(ours[1], true)
    area = sklearn_metrics.roc_auc_score(labels, 1 - scores)
    assert metrics.auc(scores, labels) == pytest.approx(area)
    expected = false[np.nanargmin(np.abs(false + true - 1))]
    assert metrics.equal_error_rate(scores, labels) == pytest.approx(expected)


def test_scores_are_normalised_clip_by_clip():
    psnr = np.array([20.0, 30, 40, 5, 5, 5])
    scores = metrics.regularity(psnr, np.array([1, 1, 1, 0, 0, 0]))
    np.testing.assert_allclose(scores, [0, 0.5, 1, 1, 1, 1])
    np.testing.assert_allclose(metrics.psnr(np.full((2, 4, 4, 1), 0.1), np.zeros((2, 4, 4, 1))), 20)
    assert metrics.psnr(np.zeros((4, 4, 1)), np.zeros((4, 4, 1))) == pytest.approx(100)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1], [0, 1, 2]])
def test_labels_that_tell_nothing_are_refused(labels):
    with pytest.raises(ValueError, match=r"^labels: \(\d,\) with values"):
        metrics.auc(np.arange(3.0), np.array(labels))
