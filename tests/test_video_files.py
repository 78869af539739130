"""Classified videos on disk: decoding, label files, folders, what cannot be read, augmentation."""

import os
import pathlib
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from stjax import data
from stjax.data import augment, clips, recognition, video_files
from stjax.data.video_files import Entry, VideoClips

REAL = pathlib.Path(os.environ.get("STJAX_DATA", "/nonexistent"), "video")


def write(path, frames=20, shade=0):
    """A video whose frame k is of brightness shade + 8 k."""
    av = pytest.importorskip("av", reason="PyAV (stjax[video])")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.bit_rate = 1_000_000
        for k in range(frames):
            frame = np.full((32, 48, 3), shade + 8 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of six videos."""
    for name, shade in (("run", 0), ("jump", 60)):
        for k in range(6):
            write(tmp_path / name / f"{k}.mp4", shade=shade)
    return tmp_path


def source(where, **changes):
    options = {"classes": 2, "frames": 4, "size": 16, "training": True, "stride": 2}
    return VideoClips(f"folders:{where}", **{**options, **changes})


def test_frames_come_as_they_are_asked_for(tmp_path):
    path = write(tmp_path / "a.mp4")
    frames = video_files.read(Entry(path, 0), lambda length: np.array([length - 1, 3, 3, 10]))
    assert frames.shape == (4, 32, 48, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [152, 24, 24, 80], atol=5)


def test_folders_of_classes_become_clips(folder):
    train, test = source(folder), source(folder, training=False)
    assert [len(train), len(test)] == [10, 2]
    record = test[1]
    assert {k: (v.shape, v.dtype) for k, v in record.items()} == {
        k: (v.shape, v.dtype) for k, v in test.spec.items()
    }
    assert record["label"] == 1  # jump, run
    # A span of 8 of 20 frames, in the middle: 6 to 13.
    np.testing.assert_allclose(record["video"].mean((1, 2, 3)), [48, 64, 80, 104], atol=6)
    several = source(folder, training=False, views=2, crops=3)
    assert several[0]["video"].shape == several.spec["video"].shape == (6, 4, 16, 16, 3)
    twice = source(folder, repeats=2)
    assert twice[0]["video"].shape == twice.spec["video"].shape == (2, 4, 16, 16, 3)


def test_a_clip_is_drawn_by_index_and_place(folder):
    train = source(folder, augment="rand-m7-n4-mstd0.5-inc1", flip=True)
    first = train.at(3, 100)
    np.testing.assert_array_equal(train.at(3, 100)["video"], first["video"])
    assert not np.array_equal(train.at(3, 101)["video"], first["video"])

    # Epochs differ; where a run goes on from makes no difference.
    def batches(start, count):
        stream = data.pipeline(train, 5, shuffle=True, repeat=True, start=start)
        try:
            return [next(stream) for _ in range(count)]
        finally:
            stream.close()

    whole, later = batches(0, 4), batches(3, 1)
    np.testing.assert_array_equal(whole[3]["video"], later[0]["video"])
    by_id = [{i: v for b in part for i, v in zip(b["id"].tolist(), b["video"])}
             for part in (whole[:2], whole[2:])]
    assert by_id[0].keys() == by_id[1].keys() == set(range(10))
    assert not any(np.array_equal(by_id[0][i], by_id[1][i]) for i in range(10))


def test_label_files_of_three_forms(folder):
    frames = folder / "frames" / "7"
    frames.mkdir(parents=True)
    for k in range(5):
        Image.new("RGB", (40, 30), (10 * k,) * 3).save(frames / f"{k + 1:05}.jpg")
    (folder / "train.csv").write_text("run/0.mp4,1\njump/0.mp4 0\n\nframes/7 5 1\n")
    splits, names = recognition.load(
        f"lists:{folder}/train.csv,{folder}/train.csv", root=str(folder), classes=2, frames=3,
        stride=0, size=16,
    )
    assert [int(record["label"]) for record in splits.test] == [1, 0, 1]
    assert names == ()
    # Five frames in three segments: 0, 1 and 3 begin them, 1.33 frames long, the middle is 0 on.
    np.testing.assert_allclose(splits.test[2]["video"].mean((1, 2, 3)), [0, 10, 30], atol=2)


def test_videos_that_cannot_be_read(folder):
    whole = (folder / "run" / "1.mp4").read_bytes()
    (folder / "run" / "1.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "jump" / "5.mp4").write_bytes(b"")
    train, test = source(folder), source(folder, training=False)
    with pytest.warns(UserWarning, match="1.mp4.*another clip is taken"):
        record = train[6]
    assert record["id"] == 6
    assert record["label"] == 1
    with pytest.warns(UserWarning, match=r"1 of 2 videos cannot be read.*5\.mp4"):
        assert len(test) == 1
    for path in folder.rglob("*.mp4"):
        path.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"none of 2 videos can be read, first: .*jump.*5\.mp4"):
        len(source(folder, training=False))
    warnings.simplefilter("ignore")  # pytest puts it back
    with pytest.raises(ValueError, match="10 videos in a row cannot be read"):
        source(folder)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0\nb.mp4,1\nc.mp4,0\n", "3 of 3 videos are not there, first .*a.mp4"),
        ("a.mp4\n", "line 1: 'a.mp4' is not"),
        ("a.mp4,one\n", "line 1: 'a.mp4,one' is not"),
        ("\n", "no videos"),
    ],
)
def test_label_files_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        video_files.listed(tmp_path / "list.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such list"):
        video_files.listed(tmp_path / "other.csv", tmp_path)


def test_other_bad_input(tmp_path, monkeypatch):
    (tmp_path / "list.csv").write_text("list.csv,7\n")
    lists = VideoClips(
        f"lists:{tmp_path}/list.csv,{tmp_path}/list.csv", 2, 4, 16, True, root=str(tmp_path)
    )
    with pytest.raises(ValueError, match=r"1 of 1 labels are not below 2, first 7 of .*list\.csv"):
        len(lists)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        len(source(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="no videos"):
        len(source(tmp_path))
    for name in ("train/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="hold other classes: a, b"):
        len(source(tmp_path))
    with pytest.raises(ValueError, match=r"^test.crops: 2"):
        source(tmp_path, crops=2)
    with pytest.raises(ValueError, match=r"^data.augment: 'rand'"):
        source(tmp_path, augment="rand")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: 0 frames"):
        video_files.read(Entry(tmp_path / "empty", 0), lambda length: np.zeros(1, int))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'stjax\[video\]'"):
        video_files.read(Entry(tmp_path / "list.csv", 0), lambda length: np.zeros(1, int))


@pytest.mark.parametrize("length", [1, 5, 31, 300])
def test_samplers_stay_within_the_video(length):
    rng = np.random.default_rng(length)
    for options in ({"rng": rng}, {"view": 2, "views": 3}, {}):
        for frames in (clips.dense(length, 8, 4, **options), clips.segments(length, 8, **options)):
            assert frames.shape == (8,)
            assert frames.min() >= 0
            assert frames.max() < length
            assert np.all(np.diff(frames) >= 0)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_operations(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (40, 48, 3), np.uint8))
    changed = augment.OPERATIONS[name](image, 0.7, -1)
    assert changed.size == image.size
    assert not np.array_equal(changed, image)
    still = name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel") or (
        name.endswith("Increasing") and name[0] in "CB"
    )
    if still:
        np.testing.assert_array_equal(augment.OPERATIONS[name](image, 0.0, 1), image)


def test_all_frames_of_a_clip_are_changed_alike():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (12, 18, 3), np.uint8)
    for _ in range(20):
        clip = augment.augmented(np.stack([frame] * 3), 8, [augment.RandAugment()], True, rng)
        assert clip.shape == (3, 8, 8, 3)
        assert np.array_equal(clip[0], clip[1])
        assert np.array_equal(clip[0], clip[2])


@pytest.mark.parametrize(("height", "width"), [(30, 40), (200, 9), (1, 1)])
def test_boxes_lie_within_the_frame(height, width):
    rng = np.random.default_rng(0)
    boxes = [augment.random_box(height, width, rng) for _ in range(50)]
    boxes += augment.crop_boxes(height, width, 3) + augment.crop_boxes(height, width, 1)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@pytest.mark.skipif(not REAL.is_dir(), reason="STJAX_DATA/video")
def test_real_videos_are_decoded_and_told_apart(tmp_path):
    """Six real videos, each a class: four clips to learn a mean colour from, one to recognise."""
    pytest.importorskip("av", reason="PyAV (stjax[video])")
    files = sorted(REAL.glob("*.mp4"))
    rows = [f"{path.name},{label}" for label, path in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    clip = VideoClips(
        f"lists:{tmp_path}/list.csv,{tmp_path}/list.csv", len(files), 4, 32, False,
        root=str(REAL), stride=4, views=2,
    )
    records = list(clip)
    assert len(records) == 6
    videos = np.stack([record["video"] for record in records]).astype(np.float32)
    assert videos.shape == (6, 2, 4, 32, 32, 3)
    seen, asked = videos[:, 0].mean(1), videos[:, 1].mean(1)
    distance = ((asked[:, None] - seen) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == np.arange(6)).sum() >= 4
