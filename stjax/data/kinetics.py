"""Kinetics (Kay et al. 2017, arXiv 1705.06950) as clips to predict."""

import csv
import dataclasses
import functools
import pathlib
import warnings

import numpy as np

from stjax.data import augment, video_files
from stjax.data.records import OpenedLate, Record

SIZE = 256
STEP = 2
# The range (low, high) of each channel after ImageNet's normalisation: a task's `value_range`.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGENET = tuple((-_MEAN / _STD).tolist()), tuple(((1 - _MEAN) / _STD).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Kinetics(OpenedLate):
    """A clip of each video that `<root>/annotations/<train or test>.csv` names.

    The videos are `<root>/<split>/<youtube_id>_<start>_<end>.mp4`, times of six digits; those that
    are not there, as ever fewer of them are, are left out and counted in a warning. A clip is
    frames `step` apart, from the first one in testing and from a random one in training; the
    shorter side is brought to 256 (bilinear) and the middle square taken. A training video that
    cannot be read is replaced by the one after it. Frames are uint8: ImageNet's normalisation is
    the task's (`value_range`, see `IMAGENET`).

    Attributes:
        root: folder of the annotations and the videos.
        training: which of the two.
        length, step: frames of a clip, and how far they are apart.
        seed: of the training clips.
    """

    root: pathlib.Path
    training: bool
    length: int
    step: int = STEP
    seed: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        """The record of a video as it is drawn for a place in the sequence of batches."""
        rng = np.random.default_rng((self.seed, index, place)) if self.training else None
        read = lambda entry: self._read(entry, rng)
        if self.training:
            return {"video": video_files.first_readable(self._entries, index, read)[0]}
        return {"video": read(self._entries[index])}

    def _read(self, entry: video_files.Entry, rng: np.random.Generator | None):
        path, span = entry.path, self.step * (self.length - 1) + 1
        times = video_files.frame_times(path)
        if len(times) < span:
            raise ValueError(f"{path}: {len(times)} frames, and a clip needs {span}")
        first = 0 if rng is None else int(rng.integers(len(times) - span, endpoint=True))
        wanted = first + self.step * np.arange(self.length)
        return video_files.frames_at(path, times, wanted, _square)

    @functools.cached_property
    def _entries(self) -> list[video_files.Entry]:
        path = self.root / "annotations" / ("train.csv" if self.training else "test.csv")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such list of videos")
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            names = [
                f"{row['split']}/{row['youtube_id']}_{int(row['time_start']):06d}_"
                f"{int(row['time_end']):06d}.mp4"
                for row in rows
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: no line of youtube_id,time_start,time_end,split ({error})"
            ) from None
        there = [name for name in names if (self.root / name).is_file()]
        if not there:
            raise FileNotFoundError(
                f"{path}: none of its {len(names)} videos is there, first "
                f"{self.root / names[0] if names else 'of none'}"
            )
        if len(there) < len(names):
            warnings.warn(
                f"{path}: {len(names) - len(there)} of {len(names)} videos are not there",
                stacklevel=2,
            )
        return [video_files.Entry(self.root / name, 0) for name in there]


def _square(frame: video_files.Frame) -> video_files.Frame:
    (box,) = augment.crop_boxes(*frame.shape[:2], 1)
    return augment.crop(frame[None], box, SIZE)[0]
