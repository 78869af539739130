"""What a source is, and what a clip must look like before it reaches a batch."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

Record = dict[str, Any]
# Height and width, or one number for both.
Size = int | tuple[int, int]


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
        size: height and width, or one for both, to average the frames to; None leaves them.
        count: how many records, from the first; None takes all.
    """

    source: Source
    name: str
    length: int
    size: Size | None = None
    count: int | None = None

    def __post_init__(self):
        if not len(self):
            raise ValueError(f"{self.name}: no videos")

    def __len__(self) -> int:
        return len(self.source) if self.count is None else min(self.count, len(self.source))

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        """The record, as the source draws it for a place in the sequence of batches if it does."""
        where = f"{self.name}, record {index}"
        read = getattr(self.source, "at", lambda index, place: self.source[index])
        video = as_video(read(index, place)["video"], where)
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
    """The array named `key`, or the only one of a rank among `ranks`; errors as `pick_name`."""
    return arrays[pick_name({k: np.shape(x) for k, x in arrays.items()}, key, where, ranks)]


def pick_name(
    shapes: Mapping[str, tuple[int, ...]], key: str | None, where: str, ranks: tuple[int, ...]
) -> str:
    """`key`, or the only name of an array of a rank among `ranks`.

    Raises:
        ValueError: no such array, or several and no key.
    """
    fitting = [name for name, shape in shapes.items() if len(shape) in ranks]
    if key is None and len(fitting) == 1:
        return fitting[0]
    if key not in shapes:
        wanted = "one video" if key is None else f"an array {key!r}"
        raise ValueError(f"{where}: holds {dict(shapes)} and not {wanted}; name it by `key`")
    return key


def resize(frames: Shaped[np.ndarray, "n h w c"], size: Size) -> Shaped[np.ndarray, "n s s c"]:
    """Frames of `size` pixels by area averaging; any ratio, uint8 rounded to the nearest."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if frames.shape[1:3] == size:
        return frames
    rows, columns = (_overlap(*lengths) for lengths in zip(frames.shape[1:3], size))
    out = np.einsum("ih,nhwc,jw->nijc", rows, frames, columns, optimize=True)
    return (np.rint(out) if frames.dtype == np.uint8 else out).astype(frames.dtype)


def interpolate(
    frames: Shaped[np.ndarray, "n h w c"], size: tuple[int, int], cubic: bool = False
) -> Float[np.ndarray, "n height width c"]:
    """Frames of (height, width) as OpenCV's `resize` makes them: bilinear, or bicubic (a = -3/4).

    Values between the centres of pixels, the edge's repeated beyond it; nothing is averaged, so
    that much smaller frames are aliased, as those of the published loaders are.
    """
    out = frames.astype(np.float32)
    for axis, length in enumerate(size, start=1):
        out = _interpolated(out, axis, length, cubic)
    return out


def clip_starts(
    joined: Bool[np.ndarray, " n"], length: int, stride: int
) -> Int[np.ndarray, " clips"]:
    """First frames of all clips of `length` frames that are in one piece, in order.

    Counted from the end of each piece, `stride` frames apart: OpenSTL's rule.

    Args:
        joined: of every frame of a long row of them, whether it goes on from the one before it.
    """
    borders = [0, *np.flatnonzero(~joined[1:]) + 1, len(joined)]
    pieces = ((first, end - length) for first, end in itertools.pairwise(borders))
    starts = [
        np.arange(first + (last - first) % stride, last + 1, stride)
        for first, last in pieces
        if last >= first
    ]
    return np.concatenate([np.zeros(0, np.int64), *starts])


def folder(path: str | pathlib.Path) -> pathlib.Path:
    """The path of a folder that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    return path


def to_float(frames: UInt8[np.ndarray, "..."] | Float[np.ndarray, "..."]):
    """Frames in [0, 1]: float32 from uint8, floats as they are."""
    return frames.astype(np.float32) / 255 if frames.dtype == np.uint8 else frames


def _interpolated(frames, axis, size, cubic):
    """Along one axis, tap by tap."""
    length = frames.shape[axis]
    centre = (np.arange(size) + 0.5) * (length / size) - 0.5
    first = np.floor(centre).astype(np.int64)
    out = 0
    for tap in range(-1, 3) if cubic else range(2):
        weight = (_cubic if cubic else _linear)(np.abs(centre - first - tap))
        taken = np.take(frames, np.clip(first + tap, 0, length - 1), axis)
        out = out + taken * weight.astype(np.float32).reshape(-1, *[1] * (frames.ndim - axis - 1))
    return out


def _linear(distance):
    return 1 - distance


def _cubic(distance, a=-0.75):
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, far)


def _overlap(length: int, size: int) -> Float[np.ndarray, "size length"]:
    """Row i: the share of each of `length` pixels in the i-th of `size` equal intervals."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    right = np.minimum(edges[1:, None], pixels + 1)
    left = np.maximum(edges[:-1, None], pixels)
    return np.maximum(right - left, 0) * (size / length)
