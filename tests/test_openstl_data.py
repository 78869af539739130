"""OpenSTL's data sets as they lie on disk, in made pieces, and one's own folders of videos."""

import io
import os
import pathlib
import pickle
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from stjax import data
from stjax.data import arrays, backgrounds, records, video_files, weather, zooms
from tests.test_video_files import write as write_video

h5py = pytest.importorskip("h5py", reason="h5py (stjax[weather])")
REAL = pathlib.Path(os.environ.get("STJAX_DATA", "/nonexistent"))
needs_real = pytest.mark.skipif(not (REAL / "era5").is_dir(), reason="STJAX_DATA/era5")

RNG = np.random.default_rng(0)
noise = lambda *shape: RNG.integers(0, 256, shape, np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


# --- moving digits, with noise and with something behind them


def moving(noise="", **options):
    options = {"size": 32, "context": 6, "horizon": 4, "count_train": 40, **options}
    return data.load(noise=noise, **options)


def test_a_square_is_cut_out_of_every_given_frame():
    clean, noisy = (moving(noise).train[3]["video"] for noise in ("", "perceptual"))
    np.testing.assert_array_equal(clean[6:], noisy[6:])
    hidden = [np.argwhere(a != b) for a, b in zip(clean[:6], noisy[:6])]
    assert any(len(places) for places in hidden)
    assert all((np.ptp(places, 0)[:2] < 12).all() for places in hidden if len(places))  # 24 of 64
    assert (noisy <= clean).all()


def test_given_frames_are_missing_at_the_published_rate():
    gone, (clean, noisy) = [], (moving(noise).train for noise in ("", "missing"))
    for k in range(40):
        same = (clean[k]["video"] == noisy[k]["video"]).all((1, 2, 3))
        assert same[6:].all()
        assert (noisy[k]["video"][:6][~same[:6]] == 0).all()
        gone.append(~same[:6])
    assert 0.12 < np.mean(gone) < 0.28


def test_directions_are_noisy_while_frames_are_given():
    draws = np.array([[0.5, 0.5, 0.25]])
    jitter = np.zeros((8, 1, 2))
    jitter[:3] = np.random.default_rng(1).normal(0, 0.2, (3, 1, 2))
    from stjax.data.moving_digits import trajectories

    path = trajectories(draws, 8, 10_000, 0.01, jitter)[0]
    moves = np.diff(path, axis=0) / 100
    np.testing.assert_allclose(moves[:2], [[1, 0]] + jitter[1:3, 0], atol=0.02)
    np.testing.assert_allclose(moves[2:], [[1, 0]] * 5, atol=0.02)
    clean, noisy = (moving(noise).train[3]["video"] for noise in ("", "dynamic"))
    assert (clean != noisy).any()


def test_tests_are_clean_and_unknown_noise_is_refused():
    np.testing.assert_array_equal(moving("missing").test[1]["video"], moving().test[1]["video"])
    with pytest.raises(ValueError, match=r"unknown noise 'salt'; there are perceptual, missing"):
        moving("salt")


def test_digits_are_white_over_a_picture_that_stands_still():
    splits = moving(background="made")
    video = splits.train[0]["video"]
    assert video.shape == splits.train.spec["video"].shape == (10, 32, 32, 3)
    white = (video == 255).all(-1)
    assert white.any((1, 2)).all()
    still = video.min(0)  # what is behind, wherever a digit ever leaves it
    seen = ~white.all(0)
    np.testing.assert_array_equal(
        np.where(white[..., None], still, video)[:, seen], np.stack([still] * 10)[:, seen]
    )


def cifar(folder, binary=False, count=4):
    pixels = {}
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        pixels[name] = noise(count, 3, 32, 32)
        rows = pixels[name].reshape(count, -1)
        if binary:
            rows = np.concatenate([np.zeros((count, 1), np.uint8), rows], 1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": rows, b"labels": [0] * count}))
    return pixels


@pytest.mark.parametrize("binary", [False, True])
def test_cifar_lies_behind_the_digits(tmp_path, binary):
    pixels = cifar(tmp_path, binary)
    train, test = backgrounds.load(str(tmp_path))
    assert (len(train), len(test)) == (20, 4)
    np.testing.assert_array_equal(train[9], pixels["data_batch_3"][1].transpose(1, 2, 0))
    np.testing.assert_array_equal(test[3], pixels["test_batch"][3].transpose(1, 2, 0))
    assert moving(background=str(tmp_path)).train[0]["video"].shape == (10, 32, 32, 3)


def test_bad_backgrounds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        moving(background=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"neither data_batch_1.bin nor data_batch_1"):
        backgrounds.load(str(tmp_path))[0][0]
    cifar(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": os.system}))
    with pytest.raises(ValueError, match=r"test_batch: not a pickled part of CIFAR-10 \(holds"):
        backgrounds.load(str(tmp_path))[1][0]
    (tmp_path / "test_batch.bin").write_bytes(b"x" * 3074)
    with pytest.raises(ValueError, match=r"test_batch.bin: 3074 bytes are no whole images"):
        backgrounds.load(str(tmp_path))[1][0]


def test_published_test_file_in_colour(tmp_path):
    video = noise(12, 3, 8, 8, 3)
    np.save(tmp_path / "mnist_cifar_test_seq.npy", video)
    test = moving(size=8, test_file=str(tmp_path / "mnist_cifar_test_seq.npy")).test
    np.testing.assert_array_equal(test[2]["video"], video[:10, 2])


# --- what the stored sets share


def test_interpolation_is_opencvs():
    ramp = np.arange(4, dtype=np.uint8)[None, None, :, None] * 10
    linear = records.interpolate(ramp, (1, 8))[0, 0, :, 0]
    np.testing.assert_allclose(linear, [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30])
    step = np.array([0, 0, 100, 100], np.float32)[None, None, :, None]
    cubic = records.interpolate(step, (1, 8), cubic=True)[0, 0, :, 0]
    # cv2.resize(step, (8, 1), interpolation=cv2.INTER_CUBIC)
    expected = [0, -3.515625, -10.546875, 22.65625, 77.34375, 110.546875, 103.515625, 100]
    np.testing.assert_allclose(cubic, expected, atol=1e-4)


@pytest.mark.parametrize("stride", [3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_clips_are_those_of_the_published_loop(stride, seed):
    rng = np.random.default_rng(seed)
    joined = rng.random(40) < 0.9
    piece, length = np.cumsum(~joined), 5
    expected, index = [], len(piece) - 1
    while index >= length - 1:
        if piece[index] == piece[index - length + 1]:
            expected.append(index - length + 1)
            index -= stride - 1
        index -= 1
    assert records.clip_starts(joined, length, stride).tolist() == expected[::-1]


# --- KTH


def kth(root, frames=range(1, 12)):
    for action in ("boxing", "handclapping", "handwaving", "walking", "jogging", "running"):
        for person in (16, 17):
            folder = root / action / f"person{person}_{action}_d1_uncomp"
            for k in frames:
                save(folder / f"image_{k:04d}_120x160.png", np.full((12, 16, 3), 10 * k, np.uint8))
            (folder / "readme.txt").write_text("not a frame")


def test_kth(tmp_path):
    kth(tmp_path, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12])
    splits = data.load(f"kth:{tmp_path}", context=2, horizon=1, test_horizon=2, size=16)
    # Of 4 and 7 successive frames: end to end for four actions, three apart for two.
    assert len(splits.train) == 4 * (1 + 2) + 2 * (1 + 2)
    assert len(splits.test) == 4 * (1 + 1) + 2 * (1 + 2)
    clip = splits.train[1]["video"]
    assert clip.shape == (3, 16, 16, 1)
    np.testing.assert_allclose(clip.mean((1, 2, 3)) * 255, [70, 80, 90], rtol=1e-5)
    assert splits.test[0]["video"].shape == (4, 16, 16, 1)
    native = data.load(f"kth:{tmp_path}", context=2, horizon=1).train[0]["video"]
    assert (native.shape, native.dtype) == ((3, 128, 128, 1), np.float32)


def test_bad_kth_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        data.load(f"kth:{tmp_path}/nowhere")
    kth(tmp_path)
    with pytest.raises(ValueError, match=r"no 20 successive frames of any of persons 1 to 16"):
        data.load(f"kth:{tmp_path}")
    train = data.load(f"kth:{tmp_path}", context=2, horizon=1).train
    folder = tmp_path / "boxing" / "person16_boxing_d1_uncomp"
    bad = folder / "image_0011_120x160.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"image_0011_120x160.png: not a readable image"):
        train[2]
    save(bad, np.zeros((10, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"image_0011.*: 10 x 16 pixels, and image_0009.* 12 x 16"):
        train[2]
    (folder / "image_last.png").write_bytes(whole)
    with pytest.raises(ValueError, match=r"person16_boxing_d1_uncomp: a frame that is not named"):
        data.load(f"kth:{tmp_path}", context=2, horizon=1)


# --- Human3.6M


def human(root, last=36):
    for k in range(1, last + 1):
        save(root / "images" / f"S1_Walking.5413_{k:06d}.jpg", np.full((8, 8, 3), (k, 100, 200), np.uint8))
    lines = ["images/S1_Walking.5413_,1,16", "images/S1_Walking.5413_,16,31"]
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    (root / "test.txt").write_text("images/S1_Walking.5413_,6,21\n")


def test_human(tmp_path):
    human(tmp_path)
    splits = data.load(f"human:{tmp_path}", context=2, horizon=2, size=8)
    assert (len(splits.train), len(splits.test)) == (2, 1)
    video = splits.train[1]["video"]
    assert (video.shape, video.dtype) == ((4, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(video[:, 0, 0, 0], [16, 21, 26, 31], atol=4)
    published = data.load(f"human:{tmp_path}", context=2, horizon=2, size=8, published=True)
    np.testing.assert_array_equal(published.train[1]["video"], video[..., ::-1])
    assert data.load(f"human:{tmp_path}", context=1, horizon=1).test[0]["video"].shape[1] == 256
    nearer = data.load(f"human:{tmp_path}", context=2, horizon=2, step=1).train[0]["video"]
    np.testing.assert_allclose(nearer[:, 0, 0, 0], [1, 2, 3, 4], atol=4)


def test_bad_human_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.txt: no such list of clips"):
        data.load(f"human:{tmp_path}", context=2, horizon=2)
    human(tmp_path)
    message = r"train.txt: 2 images of its 2 clips of 6 frames are not there, first .*_000041.jpg"
    (tmp_path / "images" / "S1_Walking.5413_000036.jpg").unlink()
    with pytest.raises(ValueError, match=message.replace("000041", "000036")):
        data.load(f"human:{tmp_path}", context=2, horizon=4)
    (tmp_path / "test.txt").write_text("images/S1_\n")
    with pytest.raises(ValueError, match=r"test.txt, line 1: 'images/S1_' is not 'prefix,"):
        data.load(f"human:{tmp_path}", context=2, horizon=2)


# --- KittiCaltech


def kitti(root, drives="aaaaabbb"):
    folder = root / "kitti_hkl"
    folder.mkdir(parents=True)
    frames = noise(len(drives), 128, 160, 3)
    with h5py.File(folder / "X_train.hkl", "w") as file:
        file["data_0"] = frames
    with h5py.File(folder / "sources_train.hkl", "w") as file:
        file["data_0"] = np.array([f"city-{drive}".encode() for drive in drives])
    return frames


def caltech(root, frames=14):
    (root / "caltech" / "set06").mkdir(parents=True)
    content = b"\xed\xfe\0\0Norpix seq".ljust(1024, b"\0")
    for k in range(frames):
        file = io.BytesIO()
        Image.fromarray(np.full((24, 32, 3), (10 * k, 0, 200), np.uint8)).save(file, "jpeg")
        content += struct.pack("<I", len(file.getvalue()) + 4) + file.getvalue() + bytes(8)
    path = root / "caltech" / "set06" / "V000.seq"
    path.write_bytes(content)
    return path


def test_kitticaltech(tmp_path):
    frames = kitti(tmp_path)
    caltech(tmp_path)
    splits = data.load(f"kitticaltech:{tmp_path}", context=1, horizon=1)
    assert [len(splits.train), len(splits.test)] == [2 + 1, 2]
    np.testing.assert_array_equal(splits.train[1]["video"], frames[3:5])
    np.testing.assert_array_equal(splits.train[2]["video"], frames[6:8])
    assert splits.test[0]["video"].shape == (2, 128, 160, 3)
    # The third, sixth, ... frame, red first.
    red, blue = splits.test[1]["video"].mean((1, 2))[:, [0, 2]].T
    np.testing.assert_allclose(red, [80, 110], atol=4)
    np.testing.assert_allclose(blue, 200, atol=4)
    small = data.load(f"kitticaltech:{tmp_path}", context=1, horizon=1, size=(16, 20)).test
    assert small[0]["video"].shape == (2, 16, 20, 3)
    assert len(pickle.dumps(splits.train)) < 2000


def test_caltech_of_the_published_cache(tmp_path):
    kitti(tmp_path)
    folder = tmp_path / "caltech"
    folder.mkdir()
    frames = noise(7, 128, 160, 3)
    np.save(folder / "data_cache.npy", frames)
    np.save(folder / "indices_cache.npy", np.array([4, 1], np.int32))
    load = lambda **options: data.load(f"kitticaltech:{tmp_path}", context=2, horizon=1, **options)
    np.testing.assert_array_equal(load().test[1]["video"], frames[4:7, ..., ::-1])
    np.testing.assert_array_equal(load(published=True).test[0]["video"], frames[1:4])
    whole = (folder / "data_cache.npy").read_bytes()
    (folder / "data_cache.npy").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"data_cache.npy: \d+ bytes expected for uint8"):
        load()


def test_lists_of_older_hickles(tmp_path):
    kitti(tmp_path)
    with h5py.File(tmp_path / "kitti_hkl" / "sources_train.hkl", "w") as file:
        for k, name in enumerate("aaabbbbbbbbb"[:8]):
            file[f"data_0/data_{k}"] = name
    caltech(tmp_path)
    assert len(data.load(f"kitticaltech:{tmp_path}", context=1, horizon=1).train) == 1 + 2


def test_bad_kitticaltech_is_named(tmp_path):
    load = lambda: data.load(f"kitticaltech:{tmp_path}", context=1, horizon=1)
    with pytest.raises(FileNotFoundError, match="kitti_hkl: no such folder"):
        load()
    kitti(tmp_path)
    path = caltech(tmp_path, frames=12)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"V000.seq, frame 11: not a readable JPEG"):
        [load().test[k] for k in range(2)]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither data_cache.npy nor set<NN>/V<NNN>.seq"):
        load()
    with h5py.File(tmp_path / "kitti_hkl" / "sources_train.hkl", "w") as file:
        file["data_0"] = np.array([b"a"] * 3)
    with pytest.raises(ValueError, match=r"sources_train.hkl: 3 names for 8 frames"):
        load()
    images = tmp_path / "kitti_hkl" / "X_train.hkl"
    images.write_bytes(images.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"X_train.hkl: not a readable HDF5 file"):
        load()


# --- BAIR


def tfrecord(path, trajectories):
    from tensorflow_datasets.proto import tf_example_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for frames in trajectories:
        example = tf_example_pb2.Example()
        for k, frame in enumerate(frames):
            feature = example.features.feature
            feature[f"{k}/image_aux1/encoded"].bytes_list.value.append(frame.tobytes())
            feature[f"{k}/action"].float_list.value.extend([0.0] * 4)
        message = example.SerializeToString()
        content += struct.pack("<Q", len(message)) + bytes(4) + message + bytes(4)
    path.write_bytes(content)


def test_bair(tmp_path):
    frames = noise(3, 5, 64, 64, 3)
    tfrecord(tmp_path / "train" / "traj_0_to_1.tfrecords", frames[:2])
    tfrecord(tmp_path / "train" / "traj_2_to_2.tfrecords", frames[2:])
    tfrecord(tmp_path / "test" / "traj_0_to_0.tfrecords", frames[:1])
    splits = data.load(f"bair:{tmp_path}", context=2, horizon=1, test_horizon=3)
    assert (len(splits.train), len(splits.test)) == (9, 1)
    np.testing.assert_array_equal(splits.train[5]["video"], frames[1, 2:5])
    np.testing.assert_array_equal(splits.train[6]["video"], frames[2, :3])
    np.testing.assert_array_equal(splits.test[0]["video"], frames[0])


def test_bad_bair_is_named(tmp_path):
    path = tmp_path / "train" / "a.tfrecords"
    load = lambda **options: data.load(
        f"bair:{tmp_path}", **{"context": 2, "horizon": 1, **options}
    )
    with pytest.raises(FileNotFoundError, match="train: no such folder"):
        load()
    frames = noise(2, 4, 64, 64, 3)
    tfrecord(path, frames)
    tfrecord(tmp_path / "test" / "a.tfrecords", frames)
    with pytest.raises(ValueError, match=r"a.tfrecords: 4 frames with <k>/image_aux1/encoded.* 9"):
        load(horizon=7)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"a.tfrecords: ends within record 1"):
        load()
    tfrecord(path, [frames[0], frames[1, :2]])
    with pytest.raises(ValueError, match=r"a.tfrecords, byte \d+: no 2/image_aux1/encoded"):
        load().train[2]
    tfrecord(path, [frames[0, :, :9]])
    with pytest.raises(ValueError, match=r"0/image_aux1/encoded has 1728 bytes instead of 64"):
        load()


# --- TaxiBJ


def taxi(path, save=np.savez, **changes):
    parts = {
        f"{part}_{split}": RNG.uniform(-1, 1, (n, 4, 2, 8, 8)).astype(np.float32)
        for part in "XY"
        for split, n in (("train", 5), ("test", 3))
    }
    save(path, **{**parts, **changes})
    return parts


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_taxibj(tmp_path, save):
    path = tmp_path / "dataset.npz"
    parts = taxi(path, save)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = data.load(f"taxibj:{path}", context=4, horizon=4, test_horizon=2)
    assert bool(caught) == (save is np.savez_compressed)
    if not caught:
        assert isinstance(arrays.open_members(path, ["X_train"])[0], np.memmap)
    assert (len(splits.train), len(splits.test)) == (5, 3)
    expected = np.concatenate([parts["X_test"][1], parts["Y_test"][1, :2]]).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(splits.test[1]["video"], (expected + 1) / 2, atol=1e-6)


def test_bad_taxibj_is_named(tmp_path):
    path = tmp_path / "dataset.npz"
    load = lambda **options: data.load(f"taxibj:{path}", **{"context": 4, "horizon": 4, **options})
    with pytest.raises(FileNotFoundError, match="dataset.npz: no such file"):
        load()
    taxi(path, Y_train=np.full((5, 4, 2, 8, 8), 3.0))
    with pytest.raises(ValueError, match=r"dataset.npz: record 0 spans \[.*3.0\] instead of"):
        load().train[0]
    with pytest.raises(ValueError, match=r"X_train \(5, 4, .* instead of \(n, 3, 2, h, w\)"):
        load(context=3)
    with pytest.raises(ValueError, match=r"Y_train \(5, 4, .* and \(n, 6, 2, h, w\)"):
        load(horizon=6)
    np.savez(path, X_train=np.zeros(3))
    with pytest.raises(ValueError, match=r"dataset.npz: holds X_train, no Y_train"):
        load()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="dataset.npz: not a readable .npz file"):
        load()


# --- Kinetics


def test_kinetics(tmp_path):
    header = "label,youtube_id,time_start,time_end,split"
    (tmp_path / "annotations").mkdir()
    for split, count in (("train", 2), ("test", 1)):
        lines = [header, *(f"run,{split}{k},{k},10,{split}" for k in range(count + 1))]
        (tmp_path / "annotations" / f"{split}.csv").write_text("\n".join(lines))
        for k in range(count):
            write_video(tmp_path / split / f"{split}{k}_{k:06d}_000010.mp4")
    load = lambda **options: data.load(
        f"kinetics:{tmp_path}", **{"context": 2, "horizon": 2, "size": 32, **options}
    )
    with pytest.warns(UserWarning, match=r"(train|test).csv: 1 of . videos are not there"):
        splits = load()
    assert (len(splits.train), len(splits.test)) == (2, 1)
    clip = splits.test[0]["video"]
    assert (clip.shape, clip.dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(clip.mean((1, 2, 3)), [0, 16, 32, 48], atol=5)
    # Another place in the sequence of batches, another clip; the same one, the same.
    levels = {splits.train.at(0, place)["video"].mean() for place in (0, 0, 7, 9)}
    assert len(levels) == 3
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"test0_.*mp4: 20 frames.* 39"):
        load(horizon=18).test[0]
    (tmp_path / "annotations" / "test.csv").write_text("id\n1\n")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"test.csv: no line of youtu"):
        load()


# --- one's own


def test_folder_of_videos(tmp_path):
    for k in range(6):
        write_video(tmp_path / f"{k}.mp4", frames=20, shade=2 * k)
    splits = data.load(f"folder:{tmp_path}", context=3, horizon=1, step=2, stride=3, size=(8, 12))
    # Clips span 7 of 20 frames and start at 0, 3, 6, 9, 12.
    assert (len(splits.train), len(splits.test)) == (25, 5)
    clip = splits.train[5 + 4]["video"]
    assert clip.shape == (4, 8, 12, 3)
    np.testing.assert_allclose(clip.mean((1, 2, 3)), 2 + 8 * np.array([12, 14, 16, 18]), atol=5)
    whole = data.load(f"folder:{tmp_path}", context=5, horizon=5)
    assert len(whole.test) == 2
    assert whole.test[1]["video"].shape == (10, 32, 48, 3)


def test_one_video_is_cut_in_time(tmp_path):
    frames = noise(24, 6, 6)
    np.save(tmp_path / "only.npy", frames)
    splits = data.load(f"folder:{tmp_path}", context=2, horizon=1, stride=1)
    assert (len(splits.train), len(splits.test)) == (18, 2)
    np.testing.assert_array_equal(splits.train[17]["video"][..., 0], frames[17:20])
    np.testing.assert_array_equal(splits.test[0]["video"][..., 0], frames[20:23])


def test_short_videos_are_left_out_and_counted(tmp_path):
    for k, length in enumerate((9, 3, 9, 9, 9, 9)):
        np.savez(tmp_path / f"{k}.npz", video=noise(length, 6, 6, 3), other=np.zeros(2))
    with pytest.warns(UserWarning, match=r"1 of 5 videos are too short.*1.npz: 3 frames.* 4"):
        splits = data.load(f"folder:{tmp_path}", context=2, horizon=2)
    assert (len(splits.train), len(splits.test)) == (8, 2)


def test_bad_folders_are_named(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=r"a.mp4: 17 frames, and a clip needs 20"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match=r"data.step 1 below 1, or data.stride -1"):
        data.load(f"folder:{tmp_path}", stride=-1)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a.mp4: (cannot be decoded|no video stream)"):
        data.load(f"folder:{tmp_path}", context=2, horizon=2)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        data.load(f"folder:{tmp_path}/nowhere")


@pytest.mark.skipif(not (REAL / "video").is_dir(), reason="STJAX_DATA/video")
def test_frames_of_real_videos_are_the_same_from_any_start():
    path = REAL / "video" / "bikes.mp4"
    times = video_files.frame_times(path)
    assert len(times) == video_files.frame_count(path) == 250
    every = lambda frame: frame[::16, ::16]
    whole = video_files.read(video_files.Entry(path, 0), np.arange, every)
    for start in (0, 97, 243):
        wanted = np.arange(start, start + 7, 3)
        frames = video_files.frames_at(path, times, wanted, every)
        np.testing.assert_array_equal(frames, whole[wanted])
    splits = data.load(f"folder:{REAL}/video", context=2, horizon=2, size=(24, 32), stride=50)
    assert splits.test[0]["video"].shape == (4, 24, 32, 3)


# --- weather


def fields(variable, hours, levels=0):
    """Hour of the day and a trend, other at each cell and level."""
    k = np.arange(hours, dtype=np.float32)
    shape = (hours, *([levels] if levels else []), 4, 8)
    cells = np.arange(np.prod(shape[1:]), dtype=np.float32).reshape(shape[1:])
    time = (10 * np.sin(2 * np.pi * k / 24) + 0.01 * k).reshape(-1, *[1] * (len(shape) - 1))
    return 270 + len(variable) + time + cells


def netcdf(path, variable, start, values, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # an earlier one may still be open
    with h5py.File(path, "w") as file:
        file["time"] = np.arange(len(values), dtype=np.int64)
        file["time"].attrs["units"] = f"hours since {start} 00:00:00"
        if values.ndim == 4:
            file["level"] = np.array([150, 500, 850, 1000][-values.shape[1] :], np.int32)
        file[variable] = values
        for name, value in changes.items():
            file[variable].attrs[name] = value


def bench(root, variables=("t2m",), levels=0):
    """Two days of training, and two of testing, each in a file of its own."""
    for variable in variables:
        values = fields(variable, 96, levels)
        folder = root / weather.FOLDERS[variable]
        netcdf(folder / "b_2018.nc", variable, "2018-01-03", values[48:])
        netcdf(folder / "a_2017.nc", variable, "2018-01-01", values[:48])


SPAN = {"train_time": ("2018-01-01", "2018-01-02"), "test_time": ("2018-01-03", "2018-01-04")}


def load_weather(root, **options):
    return data.load(f"weather:{root}", **{"context": 3, "horizon": 2, **SPAN, **options})


def test_weather_is_normalised_by_the_training_years(tmp_path):
    bench(tmp_path)
    splits, values = load_weather(tmp_path), fields("t2m", 96)[..., None]
    # As many windows as OpenSTL takes: without the last hour, and without the last window.
    assert len(splits.train) == len(splits.test) == 48 - 1 - 5
    mean, std = values[:47].mean(), values[:47].std()
    np.testing.assert_allclose([splits.test.mean, splits.test.std], [[mean], [std]], rtol=1e-5)
    record = splits.test[4]
    np.testing.assert_allclose(record["video"], (values[52:57] - mean) / std, atol=1e-4)
    assert record["hour"].tolist() == [4, 5, 6, 7, 8]
    assert record["video"].dtype == np.float32
    published = load_weather(tmp_path, published=True).test
    own = values[48:95]
    np.testing.assert_allclose(
        published[4]["video"], (values[52:57] - own.mean()) / own.std(), atol=1e-4
    )
    assert published.mean == splits.test.mean
    assert len(load_weather(tmp_path, count_test=7).test) == 7
    assert len(pickle.dumps(splits.train)) < 3000
    small = load_weather(tmp_path, crop=(3, 6), size=(3, 2)).train[0]["video"]
    assert small.shape == (5, 3, 2, 1)


def test_openstls_counts_of_windows():
    hours = lambda years: sum(8784 if year % 4 == 0 else 8760 for year in years)
    made = lambda count: len(
        weather.Weather(None, ("t2m",), (0, count - 1, 1), tuple(range(24)), (0.0,), (1.0,))
    )
    assert made(hours(range(2010, 2016))) == 52_559
    assert made(hours(range(2017, 2019))) == 17_495


def test_winds_are_one_variable_and_levels_are_channels(tmp_path):
    bench(tmp_path, ("u10", "v10", "r", "t"), 0)
    assert load_weather(tmp_path, variables=("uv10",)).train[0]["video"].shape == (5, 4, 8, 2)
    bench(tmp_path, ("r", "t"), 4)
    last = load_weather(tmp_path, variables=("r",)).train
    assert last[0]["video"].shape == (5, 4, 8, 1)
    np.testing.assert_allclose(last.mean, [fields("r", 47, 4)[:, -1].mean()], rtol=1e-5)
    both = load_weather(tmp_path, variables=("r", "t"), levels=(150, 850)).train
    assert both.variables == ("r", "t")
    expected = [fields(name, 47, 4)[:, k].mean() for name in "rt" for k in (0, 2)]
    np.testing.assert_allclose(both.mean, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"nc: r: levels \[150, 500, 850, 1000\], no 700"):
        load_weather(tmp_path, variables=("r",), levels=(700,))


def test_steps_of_six_hours(tmp_path):
    bench(tmp_path)
    options = {"context": 2, "horizon": 2, "step": 6}
    clip = load_weather(tmp_path, **options).train[1]
    assert clip["hour"].tolist() == [6, 12, 18, 0]
    # OpenSTL takes the step twice: -5, 0, 1, 7 times six hours.
    assert weather._offsets(2, 2, True) == (0, 5, 6, 12)
    assert weather._offsets(4, 4, True) == (0, 6, 12, 17, 18, 24, 30, 36)


def test_packed_values_and_older_netcdf(tmp_path):
    from scipy.io import netcdf_file

    values = fields("t2m", 96)
    raw = np.rint((values - 280) / 0.01).astype(np.int16)
    with netcdf_file(tmp_path / "all.nc", "w") as file:
        for name, length in (("time", 96), ("lat", 4), ("lon", 8)):
            file.createDimension(name, length)
        time = file.createVariable("time", "i4", ("time",))
        time[:], time.units = np.arange(96) * 60, b"minutes since 2018-01-01"
        t2m = file.createVariable("t2m", "i2", ("time", "lat", "lon"))
        t2m[:], t2m.scale_factor, t2m.add_offset, t2m._FillValue = raw, 0.01, 280.0, -32767
    test = load_weather(tmp_path / "all.nc").test
    read = test[0]["video"] * test.std[0] + test.mean[0]
    np.testing.assert_allclose(read[..., 0], values[48:53], atol=0.01)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"train_time": ("2010", "2015")}, r"2m_temp.*: 2010 to 2015 wanted, and the files hold 20"),
        ({"test_time": ("2018-01-03", "2018-01-06")}, r"2018-01-03 to 2018-01-06 wanted"),
        ({"variables": ("tcc",)}, r"neither a folder total_cloud_cover nor files"),
        ({"crop": (5, 8)}, r"data.crop: \(5, 8\) of a grid of \(4, 8\)"),
    ],
)
def test_impossible_weather_is_refused(tmp_path, spoil, message):
    bench(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_weather(tmp_path, **spoil)


def test_bad_weather_files_are_named(tmp_path):
    bench(tmp_path)
    folder = tmp_path / "2m_temperature"
    values = fields("t2m", 48)
    values[5, 2, 3] = np.nan
    netcdf(folder / "b_2018.nc", "t2m", "2018-01-03", values)
    test = load_weather(tmp_path).test
    with pytest.raises(ValueError, match=r"t2m at 2018-01-03T05:00:00: 1 of 32 values are NaN"):
        test[4]
    netcdf(folder / "b_2018.nc", "t2m", "2018-01-03", fields("t2m", 48), _FillValue=273.0)
    with pytest.raises(ValueError, match=r"t2m at 2018-01-03T00:00:00: 1 of 32 values are NaN"):
        load_weather(tmp_path).test[0]
    netcdf(folder / "b_2018.nc", "t2m", "2018-01-02", fields("t2m", 72))
    with pytest.raises(ValueError, match=r"2m_temperature: t2m 2018-01-02T23:00:00 twice|twice"):
        load_weather(tmp_path)
    netcdf(folder / "b_2018.nc", "u10", "2018-01-03", fields("t2m", 48))
    with pytest.raises(ValueError, match=r"b_2018.nc: holds time, u10, no t2m"):
        load_weather(tmp_path)
    (folder / "b_2018.nc").write_bytes((folder / "a_2017.nc").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"b_2018.nc: not a readable HDF5 file"):
        load_weather(tmp_path)
    (folder / "b_2018.nc").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"b_2018.nc: begins with b'nons', neither netCDF nor GR"):
        load_weather(tmp_path)
    (folder / "b_2018.nc").unlink()
    holes = fields("t2m", 96)
    (folder / "a_2017.nc").unlink()
    with h5py.File(folder / "a_2017.nc", "w") as file:
        file["time"] = np.delete(np.arange(97), 30)
        file["time"].attrs["units"] = "hours since 2018-01-01"
        file["t2m"] = holes
    with pytest.raises(ValueError, match=r"nothing between 2018-01-02T05:00:00 and 2018-01-02T07"):
        load_weather(tmp_path)


@needs_real
def test_real_fields_of_grib(tmp_path):
    pytest.importorskip("eccodes", reason="eccodes (stjax[weather])")
    path = REAL / "era5" / "era5-2mt-2019-03-uk.grib"
    options = {
        "context": 6, "horizon": 6, "crop": (32, 48),
        "train_time": ("2019-03-01", "2019-03-02"), "test_time": ("2019-03-30", "2019-03-31"),
    }  # fmt: skip
    splits = data.load(f"weather:{path}", **options)
    record = splits.test[3]
    assert record["video"].shape == (12, 32, 48, 1)
    assert record["hour"].tolist() == list(range(3, 15))
    celsius = record["video"] * splits.test.std[0] + splits.test.mean[0] - 273.15
    assert -15 < celsius.min() < celsius.max() < 25
    # The last message is cut.
    (tmp_path / "cut.grib").write_bytes(path.read_bytes()[: 10 * 3360 - 1000])
    with pytest.raises(ValueError, match=r"cut.grib: "):
        data.load(f"weather:{tmp_path}/cut.grib", **options)


# --- augmentation


def test_zoomed_clips_move_all_their_frames_alike():
    splits = moving(augment=True, size=64)
    plain = moving(size=64).train[2]["video"]
    again = [splits.train.at(2, place)["video"] for place in (5, 5, 6)]
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[0] != again[2]).any()
    assert again[0].shape == plain.shape
    assert again[0].dtype == np.uint8
    assert abs(float(again[0].mean()) / plain.mean() - 1) < 0.25
    np.testing.assert_array_equal(splits.test[0]["video"], moving(size=64).test[0]["video"])
    assert splits.train.spec["video"].shape == plain.shape


def test_mirrors_come_at_their_rates():
    video = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    source = zooms.Zoomed([{"video": video}], *zooms.ZOOMS["taxibj"])
    mirrored = [bool(source.at(0, k)["video"][0, 0, 0, 0] == 1) for k in range(200)]
    assert 0.4 < np.mean(mirrored) < 0.6
    with pytest.raises(ValueError, match=r"data.augment: 'folder' has none; moving_digits, kth"):
        data.load("folder:tests", augment=True)
