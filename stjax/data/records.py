"""What a source is, and what a clip must look like before it reaches a batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Shaped, UInt8

Record = dict[str, Any]


class Source(Protocol):
    """Random access to records: dicts of numpy arrays, alike in shape and dtype.

    A clip is `{"video": (t, h, w, c) uint8 or float in [0, 1], "id": () int32}`. Reading is pure:
    the same index gives the same record, in any order and in any process. A source that knows its
    records' shapes beforehand has a `spec`, a record of zeros. One whose records look otherwise
    each time they come (augmentation) has `at(index, place)`, pure as well, which `pipeline` then
    reads by: the place is the record's in the sequence of all batches.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class OpenedLate:
    """A source that opens its files when first read, and again in each process it travels to.

    What a cached property holds open stays behind: a pickled memory map would be the whole file.
    """

    def __getstate__(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """The first `length` frames of every video of a source, checked and brought to one size.

    Attributes:
        source: records with a "video" of shape (t, h, w, c) or (t, h, w), t at least `length`.
        name: what errors call the source.
        length: frames of a clip.
        size: height and width to average the frames to; None leaves them as they are.
        count: how many records, from the first; None takes all.
    """

    source: Source
    name: str
    length: int
    size: int | None = None
    count: int | None = None

    def __post_init__(self):
        if not len(self):
            raise ValueError(f"{self.name}: no videos")

    def __len__(self) -> int:
        return len(self.source) if self.count is None else min(self.count, len(self.source))

    def __getitem__(self, index: int) -> Record:
        where = f"{self.name}, record {index}"
        video = as_video(self.source[index]["video"], where)
        if len(video) < self.length:
            raise ValueError(f"{where}: {len(video)} frames, and a clip needs {self.length}")
        video = video[: self.length]
        if self.size is not None:
            video = resize(video, self.size)
        return {"video": np.ascontiguousarray(video), "id": np.int32(index)}


def as_video(video: Any, where: str) -> Shaped[np.ndarray, "t h w c"]:
    """Checks shape, dtype and range; grey frames without a channel axis get one.

    Raises:
        ValueError: not (t, h, w[, c]), neither uint8 nor float, or floats outside [0, 1].
    """
    video = np.asarray(video)
    if video.ndim == 3:
        video = video[..., None]
    if video.ndim != 4 or 0 in video.shape:
        raise ValueError(f"{where}: shape {video.shape} instead of (t, h, w, c) or (t, h, w)")
    if video.dtype == np.uint8:
        return video
    if not np.issubdtype(video.dtype, np.floating):
        raise ValueError(f"{where}: dtype {video.dtype} instead of uint8 or float in [0, 1]")
    low, high = video.min(), video.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{where}: float frames span [{low}, {high}] instead of [0, 1]")
    return video


def pick(
    arrays: Mapping[str, np.ndarray], key: str | None, where: str, ranks: tuple[int, ...]
) -> np.ndarray:
    """The array named `key`, or the only one of a rank among `ranks`.

    Raises:
        ValueError: no such array, or several and no key.
    """
    fitting = [name for name, array in arrays.items() if np.ndim(array) in ranks]
    if key is None and len(fitting) == 1:
        key = fitting[0]
    if key not in arrays:
        wanted = "one video" if key is None else f"an array {key!r}"
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        raise ValueError(f"{where}: holds {shapes} and not {wanted}; name it by `key`")
    return arrays[key]


def resize(frames: Shaped[np.ndarray, "n h w c"], size: int) -> Shaped[np.ndarray, "n s s c"]:
    """Frames of `size` x `size` by area averaging; any ratio, uint8 rounded to the nearest."""
    if frames.shape[1:3] == (size, size):
        return frames
    rows, columns = (_overlap(length, size) for length in frames.shape[1:3])
    out = np.einsum("ih,nhwc,jw->nijc", rows, frames, columns, optimize=True)
    return (np.rint(out) if frames.dtype == np.uint8 else out).astype(frames.dtype)


def to_float(frames: UInt8[np.ndarray, "..."] | Float[np.ndarray, "..."]):
    """Frames in [0, 1]: float32 from uint8, floats as they are."""
    return frames.astype(np.float32) / 255 if frames.dtype == np.uint8 else frames


def _overlap(length: int, size: int) -> Float[np.ndarray, "size length"]:
    """Row i: the share of each of `length` pixels in the i-th of `size` equal intervals."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    right = np.minimum(edges[1:, None], pixels + 1)
    left = np.maximum(edges[:-1, None], pixels)
    return np.maximum(right - left, 0) * (size / length)
