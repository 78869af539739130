"""Sources of video, and the way from them to batches. numpy and grain; knows no model.

    splits = data.load("moving_digits", size=64, context=10, horizon=10, digits="folder/of/mnist")
    for batch in data.pipeline(splits.test, 16):
        batch["video"], batch["weight"]  # (16, 20, 64, 64, 1) uint8, (16,) 1 or 0 for padding

The record of a clip and the checks it passes are in `stjax.data.records`.
"""

import dataclasses
import functools
import pathlib

from stjax.data import digits as digit_images
from stjax.data.arrays import ArrayFolder, TestFile
from stjax.data.moving_digits import MovingDigits
from stjax.data.pipeline import pipeline
from stjax.data.records import Clips, Record, Source, to_float
from stjax.data.tfds import TfdsVideos

__all__ = [
    "ArrayFolder",
    "Clips",
    "MovingDigits",
    "Record",
    "Source",
    "Splits",
    "TestFile",
    "TfdsVideos",
    "load",
    "pipeline",
    "to_float",
]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Clips of context + horizon frames to train on, and held-out ones to test on."""

    train: Source
    test: Source


def load(
    source: str = "moving_digits",
    *,
    context: int = 10,
    horizon: int = 10,
    test_horizon: int | None = None,
    size: int | None = None,
    count_train: int | None = None,
    count_test: int | None = None,
    seed: int = 0,
    num_digits: int = 2,
    digits: str = "sklearn",
    digit_size: int | None = None,
    motion: str = "openstl",
    test_file: str | None = None,
    key: str | None = None,
    data_dir: str | None = None,
) -> Splits:
    """Training and test clips by name; nothing but what a batch needs is read.

    Args:
        source: "moving_digits": generated, held-out digits in held-out sequences;
            "tfds:<name>": a prepared video data set of TensorFlow Datasets, or its folder;
            "folder:<path>": a `.npy` or `.npz` file a video, in train/ and test/ or cut 5 to 1.
        context, horizon: frames given and frames to predict; a clip is the first
            context + horizon frames of a video.
        test_horizon: frames to predict in test clips; None: as in training.
        size: height and width in pixels; stored frames are area-averaged to it. None: 64 for
            moving digits, as they are for stored frames.
        count_train, count_test: how many clips. None: all that are stored; 10,000,000 and 1,000
            moving digits (every sequence of a run is a new one; the published test set has
            10,000).
        seed: of the generated sequences.
        num_digits: moving digits on a canvas.
        digits: what moves: "sklearn", "tfds:<name>" or a folder of MNIST's files
            (see `stjax.data.digits.load`).
        digit_size: digits are area-averaged to this many pixels; None: as they are (8 or 28).
        motion: step length, "openstl" (0.1) or "convssm" (0.15).
        test_file: the published test sequences of moving digits, instead of generated ones: path
            of `mnist_test_seq.npy`, or "tfds:moving_mnist", the same in TFDS.
        key: the feature or `.npz` entry that holds the video, where there are several.
        data_dir: where TFDS data sets lie; None: TFDS's own default.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, name = source.partition(":")
    train_length = context + horizon
    test_length = context + (horizon if test_horizon is None else test_horizon)
    if source == "moving_digits":
        size = 64 if size is None else size
        images = _digits(digits, digit_size, data_dir)
        counts = (
            10_000_000 if count_train is None else count_train,
            1000 if count_test is None else count_test,
        )
        lengths = (train_length, test_length)
        train, test = (
            MovingDigits(of_split, size, length, num_digits, motion, count, (seed, split))
            for split, (of_split, length, count) in enumerate(zip(images, lengths, counts))
        )
        if test_file is not None:
            test = Clips(_published(test_file, data_dir), test_file, test_length, size, count_test)
        return Splits(train, test)
    if kind == "tfds" and name:
        train, test = TfdsVideos.splits(name, key, data_dir)
    elif kind == "folder" and name:
        train, test = ArrayFolder.splits(name, key)
    else:
        raise ValueError(
            f"unknown source {source!r}; there are moving_digits, tfds:<name>, folder:<path>"
        )
    return Splits(
        Clips(train, f"{source} train", train_length, size, count_train),
        Clips(test, f"{source} test", test_length, size, count_test),
    )


def _digits(name: str, size: int | None, data_dir: str | None):
    """Training and test digits; those of TFDS, which may not be prepared here, are read late."""
    if not name.startswith("tfds:"):
        return digit_images.load(name, size, data_dir)
    return tuple(functools.partial(_late_digits, name, size, data_dir, k) for k in range(2))


def _late_digits(name: str, size: int | None, data_dir: str | None, split: int):
    return digit_images.load(name, size, data_dir)[split]


def _published(test_file: str, data_dir: str | None) -> Source:
    kind, _, name = test_file.partition(":")
    if kind == "tfds":
        return TfdsVideos(name, "test", data_dir=data_dir)
    return TestFile(pathlib.Path(test_file))
