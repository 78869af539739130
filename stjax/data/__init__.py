"""Sources of video, and the way from them to batches. numpy and grain; knows no model.

    splits = data.load("moving_digits", size=64, context=10, horizon=10, digits="folder/of/mnist")
    for batch in data.pipeline(splits.test, 16):
        batch["video"], batch["weight"]  # (16, 20, 64, 64, 1) uint8, (16,) 1 or 0 for padding

The record of a clip and the checks it passes are in `stjax.data.records`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

from stjax.data import backgrounds, folders, human36m, kinetics, kitticaltech, weather
from stjax.data import digits as digit_images
from stjax.data.arrays import TestFile
from stjax.data.bair import Bair
from stjax.data.folders import Folder
from stjax.data.human36m import Human36m
from stjax.data.kinetics import Kinetics
from stjax.data.kth import Kth
from stjax.data.moving_digits import MovingDigits
from stjax.data.pipeline import pipeline
from stjax.data.records import Clips, Record, Size, Source, folder, to_float
from stjax.data.taxibj import TaxiBj
from stjax.data.tfds import TfdsVideos
from stjax.data.zooms import ZOOMS, Zoomed

__all__ = [
    "Clips",
    "Folder",
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

STORED = ("tfds", "folder", "kth", "human", "kitticaltech", "bair", "taxibj", "kinetics", "weather")


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
    size: Size | None = None,
    count_train: int | None = None,
    count_test: int | None = None,
    seed: int = 0,
    augment: bool = False,
    published: bool = False,
    num_digits: int = 2,
    digits: str = "sklearn",
    digit_size: int | None = None,
    motion: str = "openstl",
    background: str | None = None,
    noise: str = "",
    test_file: str | None = None,
    key: str | None = None,
    data_dir: str | None = None,
    step: int | None = None,
    stride: int = 0,
    variables: Sequence[str] = ("t2m",),
    levels: Sequence[int] = (),
    train_time: tuple[str, str] = weather.YEARS[0],
    test_time: tuple[str, str] = weather.YEARS[1],
    crop: tuple[int, int] | None = None,
) -> Splits:
    """Training and test clips by name; nothing but what a batch needs is read.

    Args:
        source: what, and where it lies:
            "moving_digits": generated, held-out digits in held-out sequences;
            "tfds:<name>": a prepared video data set of TensorFlow Datasets, or its folder, of whose
            videos the first frames are taken;
            "folder:<path>": one's own videos, see `stjax.data.folders`;
            "kth:<path>", "human:<path>", "kitticaltech:<path>", "bair:<path>",
            "taxibj:<file>", "kinetics:<path>": the data sets of OpenSTL (arXiv 2306.11249) as they
            lie on disk, see the modules of `stjax.data` that are named so;
            "weather:<path>": z-scores of WeatherBench or of one's own netCDF and GRIB files.
        context, horizon: frames given and frames to predict.
        test_horizon: frames to predict in test clips; None: as in training.
        size: height and width in pixels, or one for both; stored frames are area-averaged to it.
            None: 64 for moving digits, the data set's own for stored frames.
        count_train, count_test: how many clips. None: all that are stored; 10,000,000 and 1,000
            moving digits (every sequence of a run is a new one; the published test set has
            10,000).
        seed: of what is drawn.
        augment: training clips are enlarged, cut and mirrored, see `stjax.data.zooms`.
        published: what OpenSTL's loaders do where that is not what its paper says, see
            `stjax.data.human36m`, `kitticaltech` and `weather`.
        num_digits: moving digits on a canvas.
        digits: what moves: "sklearn", "tfds:<name>" or a folder of MNIST's files
            (see `stjax.data.digits.load`).
        digit_size: digits are area-averaged to this many pixels; None: as they are (8 or 28).
        motion: step length, "openstl" (0.1) or "convssm" (0.15).
        background: what lies behind the digits, see `stjax.data.backgrounds.load`; None: black.
        noise: in the frames given of training clips: "", "perceptual", "missing" or "dynamic".
        test_file: the published test sequences of moving digits, instead of generated ones: path
            of `mnist_test_seq.npy`, or "tfds:moving_mnist", the same in TFDS.
        key: the feature or `.npz` entry that holds the video, where there are several.
        data_dir: where TFDS data sets lie; None: TFDS's own default.
        step: from one frame to the next, of "folder" (None: 1), "human" (5), "kinetics" (2) and
            "weather" (1).
        stride: from one clip of "folder" to the next; 0: they lie end to end.
        variables, levels, train_time, test_time, crop: of "weather", see
            `stjax.data.weather.splits`.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, path = source.partition(":")
    if (source != "moving_digits" and kind not in STORED) or (kind in STORED and not path):
        names = ", ".join(STORED)
        raise ValueError(f"unknown source {source!r}; there are moving_digits, and {names}:<path>")
    if augment and kind not in ZOOMS:
        raise ValueError(f"data.augment: {kind!r} has none; {', '.join(ZOOMS)} have")
    horizons = (horizon, horizon if test_horizon is None else test_horizon)
    lengths = (context + horizons[0], context + horizons[1])
    counts = (count_train, count_test)
    if kind == "moving_digits":
        size = 64 if size is None else size
        moving = _digits(digits, digit_size, data_dir)
        behind = backgrounds.load(background, data_dir) if background else (None, None)
        made = functools.partial(
            MovingDigits, size=size, num_digits=num_digits, motion=motion, context=context
        )
        train = made(
            moving[0], length=lengths[0], seed=(seed, 0), backgrounds=behind[0], noise=noise,
            count=10_000_000 if count_train is None else count_train,
        )  # fmt: skip
        if test_file is not None:
            test = Clips(_published(test_file, data_dir), test_file, lengths[1], size, count_test)
        else:
            test = made(
                moving[1], length=lengths[1], seed=(seed, 1), backgrounds=behind[1],
                count=1000 if count_test is None else count_test,
            )  # fmt: skip
    elif kind == "weather":
        train, test = weather.splits(
            path, context, horizons, variables=variables, levels=levels,
            times=(train_time, test_time), step=step or 1, crop=crop, size=size, counts=counts,
            published=published,
        )  # fmt: skip
    else:
        stored = _stored(
            kind, path, context, lengths, size, seed, published, key, data_dir, step, stride
        )
        train, test = (
            Clips(clips, f"{source} {split}", length, size, count)
            for clips, split, length, count in zip(stored, ("train", "test"), lengths, counts)
        )
    if augment:
        train = Zoomed(train, *ZOOMS[kind], seed)
    return Splits(train, test)


def _stored(kind, path, context, lengths, size, seed, published, key, data_dir, step, stride):
    """The two sources of a stored data set, before their frames are checked and resized."""
    match kind:
        case "tfds":
            return TfdsVideos.splits(path, key, data_dir)
        case "folder":
            return folders.splits(path, lengths, step or 1, stride, size, key)
        case "kitticaltech":
            return kitticaltech.splits(path, lengths, published)
        case "taxibj":
            make = lambda *which: TaxiBj(pathlib.Path(path), which[0], context, which[1])
        case "kth":
            make = functools.partial(Kth, folder(path))
        case "human":
            options = {"step": step or human36m.STEP, "published": published}
            make = functools.partial(Human36m, folder(path), **options)
        case "bair":
            make = functools.partial(Bair, folder(path))
        case "kinetics":
            options = {"step": step or kinetics.STEP, "seed": seed}
            make = functools.partial(Kinetics, folder(path), **options)
    return tuple(make(training, length) for training, length in zip((True, False), lengths))


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
