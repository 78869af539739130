"""KTH's human actions (Schuldt et al. 2004), as OpenSTL takes clips of them."""

import dataclasses
import functools
import pathlib
import re

import numpy as np

from stjax.data import images
from stjax.data.records import OpenedLate, Record, clip_starts, folder, interpolate

# Frames between the starts of clips; 0: the clip's length.
ACTIONS = {
    "boxing": 0, "handclapping": 0, "handwaving": 0, "walking": 0, "jogging": 3, "running": 3,
}  # fmt: skip
SIZE = 128
_LAST_TRAINING_PERSON = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Kth(OpenedLate):
    """Clips of `<root>/<action>/person<NN>_<action>_d<N>_uncomp/image_<NNNN>*`, one channel.

    Frames of a clip follow one another in number: the published folders leave out where nobody is
    seen. They are the first channel, brought to 128 x 128 (bilinear), in [0, 1].

    Attributes:
        root: folder of the six actions.
        training: persons 1 to 16, else 17 to 25.
        length: frames of a clip.
    """

    root: pathlib.Path
    training: bool
    length: int

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Record:
        folder, names = self._clips[index]
        frames = images.read([folder / name for name in names])[..., :1]
        return {"video": np.clip(interpolate(frames, (SIZE, SIZE)) / 255, 0, 1)}

    @functools.cached_property
    def _clips(self) -> list[tuple[pathlib.Path, list[str]]]:
        clips = []
        for action, stride in ACTIONS.items():
            for person in sorted(folder(self.root / action).iterdir()):
                match = re.match(r"person(\d\d)_", person.name)
                if match and (int(match[1]) <= _LAST_TRAINING_PERSON) == self.training:
                    clips += self._clips_of(person, stride or self.length)
        if not clips:
            persons = "1 to 16" if self.training else "17 to 25"
            raise ValueError(
                f"{self.root}: no {self.length} successive frames of any of persons {persons}"
            )
        return clips

    def _clips_of(self, person: pathlib.Path, stride: int) -> list[tuple[pathlib.Path, list[str]]]:
        names = sorted(file.name for file in person.iterdir() if file.name.startswith("image"))
        try:
            numbers = np.array([int(name[6:10]) for name in names], np.int64)
        except ValueError:
            raise ValueError(f"{person}: a frame that is not named image_<NNNN>") from None
        starts = clip_starts(np.diff(numbers, prepend=-1) == 1, self.length, stride)
        return [(person, names[start : start + self.length]) for start in starts]
