"""Human3.6M (Ionescu et al. 2014), clips by the index files that OpenSTL publishes."""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from stjax.data import images
from stjax.data.records import OpenedLate, Record, interpolate

SIZE = 256
STEP = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Human36m(OpenedLate):
    """Clips that `<root>/train.txt` or `test.txt` names: lines "images/S1_Walking.5413_,226,296".

    Frame k of that one is `<root>/images/S1_Walking.5413_000226.jpg` and so on, its number
    `step` more each time. Frames are brought to 256 x 256 (bicubic).

    Attributes:
        root: folder of the images and the index files.
        training: which of the two.
        length, step: frames of a clip, and how far they are apart.
        published: channels in the order blue, green, red, as OpenSTL's weights want them.
    """

    root: pathlib.Path
    training: bool
    length: int
    step: int = STEP
    published: bool = False

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Record:
        frames = images.read([self.root / name for name in self._names(*self._clips[index])])
        frames = frames[..., ::-1] if self.published else frames
        if frames.shape[1:3] != (SIZE, SIZE):
            frames = np.rint(interpolate(frames, (SIZE, SIZE), cubic=True)).clip(0, 255)
        return {"video": frames.astype(np.uint8)}

    def _names(self, prefix: str, first: int) -> list[str]:
        numbers = range(first, first + self.length * self.step, self.step)
        return [f"{prefix}{number:06d}.jpg" for number in numbers]

    @functools.cached_property
    def _clips(self) -> list[tuple[str, int]]:
        path = self.root / ("train.txt" if self.training else "test.txt")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such list of clips")
        clips = []
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                prefix, first = line.split(",")[:2]
                clips.append((prefix, int(first)))
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: {line!r} is not 'prefix,first frame,last frame'"
                ) from None
        # One look into each folder: there are more than half a million names.
        folders = {prefix[: prefix.rfind("/") + 1] for prefix, _ in clips}
        found = {
            place + name
            for place in folders
            if (self.root / place).is_dir()
            for name in os.listdir(self.root / place)
        }
        absent = [name for clip in clips for name in self._names(*clip) if name not in found]
        if absent:
            raise ValueError(
                f"{path}: {len(absent)} images of its {len(clips)} clips of {self.length} frames "
                f"are not there, first {absent[0]}"
            )
        return clips
