"""BAIR robot pushing (Ebert et al. 2017, arXiv 1710.05268): softmotion30_44k's TFRecords.

Read without TensorFlow: a record is a length (8 bytes), a checksum (4), a `tf.train.Example` and a
checksum (4).
"""

import dataclasses
import functools
import pathlib
import struct

import numpy as np

from stjax.data.records import OpenedLate, Record, folder

SIZE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Bair(OpenedLate):
    """All clips of `<root>/<train or test>/*.tfrecords`: the main camera's frames, 64 x 64.

    How many frames a trajectory has (30) is asked of the first of each file; one that has fewer
    is an error when it is read.

    Attributes:
        root: folder of the two parts.
        training: which of them.
        length: frames of a clip.
    """

    root: pathlib.Path
    training: bool
    length: int

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        which = int(np.searchsorted(self._ends, index, side="right"))
        path, offset, size, clips = self._trajectories[which]
        start = index - int(self._ends[which]) + clips
        images = self._images(path, offset, size)
        try:
            frames = [images[k] for k in range(start, start + self.length)]
        except KeyError as error:
            raise ValueError(f"{path}, byte {offset}: no {_name(error.args[0])}") from None
        return {"video": np.stack(frames)}

    @functools.cached_property
    def _trajectories(self) -> list[tuple[pathlib.Path, int, int, int]]:
        """File, place and bytes of each, and how many clips it has."""
        part = folder(self.root / ("train" if self.training else "test"))
        files = sorted(part.glob("*.tfrecords"))
        if not files:
            raise FileNotFoundError(f"{part}: no .tfrecords files")
        found = []
        for path in files:
            places = record_places(path)
            frames = len(self._images(path, *places[0]))
            clips = max(frames - self.length + 1, 0)
            found += [(path, *place, clips) for place in places]
        if not any(clips for *_, clips in found):
            raise ValueError(
                f"{files[0]}: {frames} frames with {_name('<k>')}, and a clip needs {self.length}"
            )
        return found

    @functools.cached_property
    def _ends(self):
        return np.cumsum([clips for *_, clips in self._trajectories])

    def _images(self, path: pathlib.Path, offset: int, size: int) -> dict[int, np.ndarray]:
        """The frames of a trajectory by their number."""
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        with path.open("rb") as file:
            file.seek(offset)
            message = file.read(size)
        try:
            features = tf_example_pb2.Example.FromString(message).features.feature
        except DecodeError:
            raise ValueError(f"{path}, byte {offset}: not a tf.train.Example") from None
        images = {}
        while _name(len(images)) in features:
            name = _name(len(images))
            (pixels,) = features[name].bytes_list.value or [b""]
            if len(pixels) != SIZE * SIZE * 3:
                raise ValueError(
                    f"{path}, byte {offset}: {name} has {len(pixels)} bytes instead of "
                    f"{SIZE} x {SIZE} x 3"
                )
            images[len(images)] = np.frombuffer(pixels, np.uint8).reshape(SIZE, SIZE, 3)
        return images


def record_places(path: pathlib.Path) -> list[tuple[int, int]]:
    """First byte and bytes of each record of a TFRecord file; only the lengths are read.

    Raises:
        ValueError: the file ends within a record, or holds none.
    """
    places, end = [], path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < end:
            start = file.tell()
            header = file.read(12)
            size = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else end
            if start + 16 + size > end:
                raise ValueError(f"{path}: ends within record {len(places)}, at byte {end}")
            places.append((start + 12, size))
            file.seek(size + 4, 1)
    if not places:
        raise ValueError(f"{path}: no records")
    return places


def _name(frame: int | str) -> str:
    return f"{frame}/image_aux1/encoded"
