"""Sources and batches: what they hold, and what they say of bad input."""

import dataclasses
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from stjax import data
from stjax.data import digits, moving_digits, records

REAL = pathlib.Path(os.environ.get("STJAX_DATA", "/nonexistent"))
needs_mnist = pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="STJAX_DATA/mnist")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Record i holds i; some of them may be bad."""

    count: int
    bad: tuple[int, ...] = ()
    error: type[Exception] = ValueError

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error(f"record {index} is bad")
        return {"id": np.int32(index)}


def drain(iterator, batches=None):
    try:
        return [batch for batch, _ in zip(iterator, range(batches or 1000))]
    finally:
        iterator.close()


def ids(batches):
    return [int(i) for b in batches for i, w in zip(b["id"], b["weight"]) if w]


# --- moving digits


def small(**changes):
    images = digits.load("sklearn")[0]
    return data.MovingDigits(images, **{"size": 16, "length": 6, "count": 20, **changes})


def test_record_is_a_function_of_seed_and_index():
    first, again = small(), small()
    for index in (7, 0, 7):
        np.testing.assert_array_equal(first[index]["video"], again[index]["video"])
    assert (first[0]["video"] != first[1]["video"]).any()
    assert (first[0]["video"] != small(seed=(1,))[0]["video"]).any()


def test_record_is_a_clip():
    record = small()[3]
    assert record["video"].shape == (6, 16, 16, 1)
    assert record["video"].dtype == np.uint8
    assert record["video"].max() == 255
    assert record["id"] == 3


def test_first_frame_is_one_step_away_and_walls_turn_digits_round():
    right = np.array([[0.5, 0.25, 0.0]])  # x, y, angle: to the right
    corners = moving_digits.trajectories(right, 8, room=100, step=0.125)
    assert corners[0, :, 0].tolist() == [25] * 8
    assert corners[0, :, 1].tolist() == [62, 75, 87, 100, 87, 75, 62, 50]


def test_published_motions_differ_in_the_step_only():
    draws = np.random.default_rng(0).random((1, 3))
    step = lambda name: moving_digits.trajectories(draws, 1, 10_000, moving_digits.STEPS[name])
    start = draws[0, 1::-1] * 10_000
    np.testing.assert_allclose(step("convssm") - start, 1.5 * (step("openstl") - start), atol=3)


@pytest.mark.parametrize("change", [{"motion": "brownian"}, {"size": 7}, {"num_digits": 0}])
def test_impossible_digits_are_refused(change):
    with pytest.raises(ValueError, match=r"brownian.*openstl|canvas of 7|at least 1"):
        small(**change)


def test_held_out_sequences_have_held_out_digits_and_motions():
    splits = data.load(size=16, context=2, horizon=2)
    train, test = splits.train, splits.test
    assert (len(train), len(test)) == (10_000_000, 1000)
    assert len(train.digits) == 1497
    assert len(test.digits) == 300
    assert train.seed != test.seed


# --- digits


def test_bundled_digits_span_the_whole_range():
    train, test = digits.load("sklearn")
    assert train.shape[1:] == test.shape[1:] == (8, 8)
    assert train.dtype == np.uint8
    assert (train.min(), train.max()) == (0, 255)


@pytest.mark.parametrize("size", [14, 8, 7, 28, 40])
def test_area_averaging_keeps_the_mean_and_constants(size):
    frames = np.random.default_rng(0).random((2, 28, 28, 1))
    resized = records.resize(frames, size)
    assert resized.shape == (2, size, size, 1)
    np.testing.assert_allclose(resized.mean(), frames.mean())
    assert (records.resize(np.full((1, 28, 28, 1), 255, np.uint8), size) == 255).all()


def test_area_averaging_by_a_whole_factor_is_the_block_mean():
    frames = np.random.default_rng(0).random((2, 28, 28, 1))
    blocks = frames.reshape(2, 14, 2, 14, 2, 1).mean((2, 4))
    np.testing.assert_allclose(records.resize(frames, 14), blocks)


def idx(images, magic=2051):
    header = np.array([magic, *images.shape], ">u4").tobytes()
    return header + images.tobytes()


IMAGES = np.arange(12 * 4 * 4, dtype=np.uint8).reshape(12, 4, 4)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_by_their_names(tmp_path, packed):
    write = lambda name, images: (tmp_path / (name + ".gz" * packed)).write_bytes(
        gzip.compress(idx(images)) if packed else idx(images)
    )
    write("images-idx3-ubyte", IMAGES)
    train, test = digits.load(str(tmp_path))
    np.testing.assert_array_equal(train, IMAGES[:10])
    np.testing.assert_array_equal(test, IMAGES[10:])
    write("train-images-idx3-ubyte", IMAGES[:7])
    write("t10k-images-idx3-ubyte", IMAGES[7:])
    train, test = digits.load(str(tmp_path))
    np.testing.assert_array_equal(train, IMAGES[:7])
    np.testing.assert_array_equal(test, IMAGES[7:])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3-ubyte", idx(IMAGES)[:-5], "208 bytes expected.*203 found"),
        ("images-idx3-ubyte", idx(IMAGES) + b"x", "208 bytes expected.*209 found"),
        ("images-idx3-ubyte", idx(IMAGES, 2049), "header 2049 instead of 2051"),
        ("images-idx3-ubyte", b"", "header 0 instead of 2051"),
        ("images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-40], "208 bytes expected.* found"),
        ("images-idx3-ubyte.gz", idx(IMAGES), "not a gzip file"),
    ],
)
def test_bad_idx_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        digits.load(str(tmp_path))


def test_missing_digits_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        digits.load(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="none of train-images"):
        digits.load(str(tmp_path))


@needs_mnist
def test_real_mnist_moves():
    splits = data.load(digits=str(REAL / "mnist"), digit_size=14, size=32, context=3, horizon=3)
    assert splits.train.digits.shape == (5000, 14, 14)
    assert splits.test.digits.shape == (1000, 14, 14)
    assert splits.test[0]["video"].shape == (6, 32, 32, 1)


# --- stored arrays


def write_test_file(path, frames=20, count=3, size=8):
    video = np.random.default_rng(0).integers(0, 256, (frames, count, size, size), np.uint8)
    np.save(path, video)
    return video


def test_published_test_file(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    video = write_test_file(path)
    test = data.load(size=8, test_file=str(path)).test
    assert len(test) == 3
    np.testing.assert_array_equal(test[2]["video"], video[:, 2, ..., None])
    assert data.load(size=8, test_file=str(path), count_test=2).test[0]["video"].dtype == np.uint8


def test_a_source_travels_to_workers_without_its_data(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    write_test_file(path)
    source = data.load(size=8, test_file=str(path)).test
    message = pickle.dumps(source)
    assert len(message) < 1000 < path.stat().st_size
    np.testing.assert_array_equal(pickle.loads(message)[1]["video"], source[1]["video"])


def test_too_short_for_the_horizon(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    write_test_file(path)
    test = data.load(size=8, test_file=str(path), horizon=11).test
    with pytest.raises(ValueError, match=r"mnist_test_seq.npy, record 1: 20 frames.*needs 21"):
        test[1]


def test_bad_test_files_are_named(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    with pytest.raises(FileNotFoundError, match=r"mnist_test_seq.npy: no such file"):
        data.load(size=8, test_file=str(path))
    write_test_file(path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-100], f"{len(whole)} bytes expected.*{len(whole) - 100} found"),
        (b"nonsense" * 9, "not a .npy file"),
        (whole[:20], "not a .npy file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"mnist_test_seq.npy: .*{message}"):
            data.load(size=8, test_file=str(path))
    np.save(path, np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"float64 \(3, 4\) instead of uint8 \(t, n, h, w"):
        data.load(size=8, test_file=str(path))


def test_folder_of_arrays(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 6, 6), np.uint8)
    for index in range(5):
        np.save(tmp_path / f"{index}.npy", grey + np.uint8(index))
    np.savez(tmp_path / "5.npz", video=grey[..., None], actions=np.zeros(5))
    splits = data.load(f"folder:{tmp_path}", context=2, horizon=2)
    assert (len(splits.train), len(splits.test)) == (5, 1)
    np.testing.assert_array_equal(splits.train[3]["video"], grey[:4, ..., None] + np.uint8(3))
    np.testing.assert_array_equal(splits.test[0]["video"], grey[:4, ..., None])
    assert data.load(f"folder:{tmp_path}", context=2, horizon=2, size=3).train[0][
        "video"
    ].shape == (4, 3, 3, 1)


def test_folder_with_its_own_split(tmp_path):
    for split, count in (("train", 2), ("test", 3)):
        (tmp_path / split / "inner").mkdir(parents=True)
        for index in range(count):
            np.save(tmp_path / split / "inner" / f"{index}.npy", np.zeros((4, 6, 6, 3), np.float32))
    splits = data.load(f"folder:{tmp_path}", context=2, horizon=2)
    assert (len(splits.train), len(splits.test)) == (2, 3)
    assert splits.test[0]["video"].shape == (4, 6, 6, 3)


@pytest.mark.parametrize("shape", [(), (5, 6), (5, 6, 0, 1), (5, 6, 6, 1, 1)])
def test_arrays_that_are_no_videos_are_named(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=rf"a.npy: shape {re.escape(str(shape))} instead of"):
        data.load(f"folder:{tmp_path}", context=2, horizon=2)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((5, 6, 6), np.int64), "dtype int64 instead of uint8"),
        (np.full((5, 6, 6), 1.5), r"span \[1.5, 1.5\]"),
        (np.full((5, 6, 6), np.nan), r"span \[nan, nan\]"),
        (np.full((5, 6, 6), -0.1), r"span \[-0.1, -0.1\]"),
    ],
)
def test_bad_frames_are_named(tmp_path, video, message):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "a.npy", video)
    splits = data.load(f"folder:{tmp_path}", context=2, horizon=2)
    with pytest.raises(ValueError, match=f"folder:.* train, record 0: .*{message}"):
        splits.train[0]


def test_ambiguous_or_broken_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, front=np.zeros((4, 6, 6), np.uint8), back=np.ones((4, 6, 6), np.uint8))
    with pytest.raises(ValueError, match=r"a.npz: holds .*front.*name it by `key`"):
        data.Folder((path,), 4)[0]
    assert data.Folder((path,), 4, key="back")[0]["video"].max() == 1
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a.npz: not a readable .npz file"):
        data.Folder((path,), 4)[0]


def test_unknown_or_empty_sources(tmp_path):
    for name in ("moving_cats", "tfds:", "folder:"):
        with pytest.raises(ValueError, match=f"{name}'; there are moving_digits, and tfds, folder"):
            data.load(name)
    with pytest.raises(FileNotFoundError, match=r"neither videos nor arrays \(.npy, .npz, .mp4"):
        data.load(f"folder:{tmp_path}")
    np.save(tmp_path / "only.npy", np.zeros((20, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"only.npy: 17 frames, and a clip needs 20"):
        data.load(f"folder:{tmp_path}")


# --- batches


def test_ragged_last_batch_is_padded_with_weight_0():
    batches = drain(data.pipeline(Numbers(10), 4))
    assert [b["id"].shape for b in batches] == [(4,)] * 3
    assert ids(batches) == list(range(10))
    assert batches[-1]["weight"].tolist() == [1, 1, 0, 0]
    assert batches[-1]["weight"].dtype == np.float32


def test_drop_remainder_drops():
    assert ids(drain(data.pipeline(Numbers(10), 4, drop_remainder=True))) == list(range(8))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [16, 17, 23])
def test_processes_read_disjoint_rows_of_the_same_batches(count, shuffle):
    whole = drain(data.pipeline(Numbers(count), 8, shuffle=shuffle))
    parts = [
        drain(data.pipeline(Numbers(count), 8, shuffle=shuffle, rows=rows))
        for rows in (slice(0, 2), slice(2, 8))
    ]
    assert len(whole) == len(parts[0]) == len(parts[1]) == -(-count // 8)
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, rows in batch.items():
            np.testing.assert_array_equal(rows, np.concatenate([part[name] for part in shares]))
    assert sorted(ids(whole)) == list(range(count))


def test_every_epoch_of_a_repeated_source_holds_every_record():
    batches = ids(drain(data.pipeline(Numbers(12), 6, shuffle=True, repeat=True), 4))
    epochs = batches[:12], batches[12:]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


def test_order_is_a_function_of_the_seed():
    order = lambda seed: ids(drain(data.pipeline(Numbers(20), 5, shuffle=True, seed=seed)))
    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("rows", [None, slice(1, 2)])
def test_a_later_start_goes_on_exactly(taken, rows):
    make = lambda **options: data.pipeline(
        small(), 3, shuffle=True, seed=1, repeat=True, rows=rows, **options
    )
    iterator = make()
    for _ in range(taken):
        next(iterator)
    rest = drain(iterator, 9)  # over the end of an epoch
    for expected, batch in zip(rest, drain(make(start=taken), 9), strict=True):
        np.testing.assert_array_equal(batch["video"], expected["video"])
        np.testing.assert_array_equal(batch["id"], expected["id"])


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError, ValueError), (OSError, OSError), (KeyError, RuntimeError)]
)
def test_a_bad_record_raises_where_the_batches_are_read(error, raised):
    iterator = data.pipeline(Numbers(8, (5,), error), 4)
    assert ids([next(iterator)]) == [0, 1, 2, 3]
    with pytest.raises(raised, match="record 5 is bad"):
        next(iterator)
    iterator.close()


@pytest.mark.slow
def test_a_bad_record_raises_through_a_worker_too():
    iterator = data.pipeline(Numbers(40, bad=(5,)), 4, workers=2)
    assert ids([next(iterator)]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="record 5 is bad"):
        drain(iterator)


@pytest.mark.slow
def test_workers_change_nothing():
    options = {"shuffle": True, "start": 1, "rows": slice(1, 2)}
    alone = ids(drain(data.pipeline(Numbers(10), 2, **options)))
    assert ids(drain(data.pipeline(Numbers(10), 2, **options, workers=2))) == alone


def test_records_that_differ(tmp_path):
    for index, size in enumerate((4, 4, 5, 4, 4, 4)):
        np.save(tmp_path / f"{index}.npy", np.zeros((2, size, size), np.uint8))
    train = data.load(f"folder:{tmp_path}", context=1, horizon=1).train
    with pytest.raises(ValueError, match=r"differ: .*\(2, 4, 4, 1\).*\(2, 5, 5, 1\)"):
        drain(data.pipeline(train, 5))
    np.save(tmp_path / "2.npy", np.zeros((2, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"differ: .*uint8.*float32"):
        drain(data.pipeline(train, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": slice(2, 5)}, "rows 2 to 5 of a batch of 4"),
        ({"batch": 11, "drop_remainder": True}, "10 records do not fill one batch of 11"),
        ({"source": Numbers(0)}, "0 records"),
    ],
)
def test_impossible_pipelines(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.pipeline(**{"source": Numbers(10), "batch": 4, **arguments})


# --- TFDS


def test_tfds_cache_gives_the_same_sequences(tmp_path):
    from stjax.data.tfds.moving_digits.moving_digits_dataset_builder import Builder, Config

    config = Config(name="tiny", size=12, digit_size=6, context=2, horizon=2)
    config.count_train, config.count_test = 5, 3
    Builder(config=config, data_dir=tmp_path, file_format="array_record").download_and_prepare()
    stored = data.load("tfds:moving_digits/tiny", context=2, horizon=2, data_dir=str(tmp_path))
    made = config.load()
    for ours, theirs in ((stored.train, made.train), (stored.test, made.test)):
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            np.testing.assert_array_equal(ours[index]["video"], theirs[index]["video"])
    batches = drain(data.pipeline(pickle.loads(pickle.dumps(stored.train)), 4))
    assert ids(batches) == list(range(5))
    with pytest.raises(ValueError, match=r"tfds:moving_digits/tiny.*4 frames.*needs 20"):
        data.load("tfds:moving_digits/tiny", data_dir=str(tmp_path)).train[0]
    assert "tensorflow" not in sys.modules


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file


FRAMES = np.random.default_rng(0).integers(0, 256, (4, 5, 8, 8), np.uint8)


class PngFrames(tfds.core.GeneratorBasedBuilder):
    """What TFDS stores for MNIST's images and, in `clip`, for a Video."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS: ClassVar = {"train": 3, "test": 1}

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 1))
        features = {"image": image, "clip": tfds.features.Sequence(image, length=5)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.COUNTS.items()}

    def _generate_examples(self, count):
        for index, video in enumerate(FRAMES[:count]):
            yield index, {"image": png(video[0]), "clip": [png(frame) for frame in video]}


class PngTestFrames(PngFrames):
    """A data set of one split."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS: ClassVar = {"test": 4}


def test_tfds_images_and_videos_are_read_without_tensorflow(tmp_path):
    builder = PngFrames(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    train, test = digits.load("tfds:png_frames", data_dir=str(tmp_path))
    np.testing.assert_array_equal(train, FRAMES[:3, 0])
    np.testing.assert_array_equal(test, FRAMES[:1, 0])

    # The same bytes declared as a Video, as moving_mnist or ucf101 are.
    path = pathlib.Path(builder.data_path) / "features.json"
    features = json.loads(path.read_text())
    features["featuresDict"]["features"]["clip"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {
            "shape": {"dimensions": ["5", "8", "8", "1"]},
            "dtype": "uint8",
            "encodingFormat": "png",
        },
    }
    path.write_text(json.dumps(features))
    splits = data.load(f"tfds:{builder.data_path}", context=3, horizon=2)
    np.testing.assert_array_equal(splits.train[2]["video"], FRAMES[2, ..., None])
    assert "tensorflow" not in sys.modules


def test_tfds_sets_of_one_split(tmp_path):
    PngTestFrames(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    where = {"context": 3, "horizon": 2, "data_dir": str(tmp_path)}
    splits = data.load("tfds:png_test_frames", **where)
    assert (len(splits.train), len(splits.test)) == (3, 1)
    np.testing.assert_array_equal(splits.test[0]["video"], FRAMES[3, ..., None])
    test = data.load(size=8, test_file="tfds:png_test_frames", **where).test
    np.testing.assert_array_equal(test[3]["video"], FRAMES[3, ..., None])
    with pytest.raises(ValueError, match=r"tfds:png_test_frames: .*train"):
        data.TfdsVideos("png_test_frames", "train", data_dir=str(tmp_path))[0]


def test_missing_tfds_sets_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"tfds:nonsense: not a data set of TFDS, nor prepared"):
        data.load("tfds:nonsense", data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"tfds:mnist: not prepared in .*tfds build mnist"):
        data.load(digits="tfds:mnist", data_dir=str(tmp_path)).train[0]


def test_importing_data_brings_in_neither_jax_nor_tensorflow():
    heavy = "{'jax', 'tensorflow', 'tensorflow_datasets', 'sklearn', 'grain'}"
    code = f"import sys, stjax.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
