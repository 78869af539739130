"""TensorFlow Datasets without TensorFlow: array_record files, read at random."""

import dataclasses
import functools
import pathlib
import types
from typing import Any

import numpy as np

from stjax.data.records import OpenedLate, Record, pick


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsVideos(OpenedLate):
    """The videos of one split of a prepared TFDS data set.

    Attributes:
        name: "ucf101", "moving_mnist:1.0.0", or the folder of a prepared data set.
        split: "train", "test", "train[:90%]", ...
        key: feature that holds the video; None: the only array of rank 4.
        data_dir: where data sets lie; None: TFDS's own (TFDS_DATA_DIR, ~/tensorflow_datasets).
    """

    name: str
    split: str
    key: str | None = None
    data_dir: str | None = None

    @classmethod
    def splits(
        cls, name: str, key: str | None = None, data_dir: str | None = None
    ) -> tuple["TfdsVideos", "TfdsVideos"]:
        """For training and testing: train, and test or validation; a lone split is cut 5 to 1."""
        stored = open_builder(name, data_dir).info.splits
        held_out = [split for split in ("test", "validation") if split in stored]
        if "train" in stored and held_out:
            names = ("train", held_out[0])
        else:
            only = next(iter(stored))
            end = stored[only].num_examples * 5 // 6
            names = (f"{only}[:{end}]", f"{only}[{end}:]")
        return tuple(cls(name, split, key, data_dir) for split in names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        where = f"tfds:{self.name} {self.split}, record {index}"
        return {"video": pick(self._records[index], self.key, where, ranks=(4,))}

    @functools.cached_property
    def _records(self):
        return open_split(self.name, self.split, self.data_dir)


def open_split(name: str, split: str, data_dir: str | None = None) -> Any:
    """Random access to the records, dicts of numpy arrays, of a prepared data set.

    Raises:
        ValueError: no data set of that name, or no such split.
        FileNotFoundError: the data set is not prepared, or not as array_record.
    """
    builder = open_builder(name, data_dir)
    try:
        return builder.as_data_source(split)
    except (NotImplementedError, AssertionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"tfds:{name}: not readable ({_line(error)})") from None
    except (KeyError, ValueError) as error:
        raise ValueError(f"tfds:{name}: {_line(error)}") from None


def open_builder(name: str, data_dir: str | None = None) -> Any:
    """The TFDS builder of a prepared data set, by name or by its folder; errors as `open_split`."""
    import tensorflow_datasets as tfds

    _let_videos_do_without_tensorflow()
    try:
        if pathlib.Path(name).is_dir():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (tfds.core.registered.DatasetNotFoundError, FileNotFoundError):
        place = data_dir or "TFDS's default folder"
        raise ValueError(f"tfds:{name}: not a data set of TFDS, nor prepared in {place}") from None
    if not builder.info.splits:
        raise FileNotFoundError(
            f"tfds:{name}: not prepared in {builder.data_dir}; once, where TensorFlow is installed:"
            f" tfds build {name} --file_format=array_record"
        )
    return builder


def _let_videos_do_without_tensorflow():
    """TFDS's Video asks TensorFlow for the name of a dtype and nothing else when it reads."""
    from tensorflow_datasets.core.features import video_feature

    video_feature.tf = types.SimpleNamespace(dtypes=types.SimpleNamespace(as_dtype=np.dtype))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
