"""OpenSTL's augmentation of clips: a little larger, cut at random, mirrored at random."""

import dataclasses

import numpy as np

from stjax.data.records import Record, Source, interpolate

# Share of the enlarged frame that is kept; probabilities to turn a clip by half, to mirror it top
# to bottom, and left to right. OpenSTL draws the digits' with `randint(-2, 1)`, true 3 times of 4,
# one after the other until one is.
ZOOMS = {
    "moving_digits": (0.94, (3 / 4, 3 / 16, 3 / 64)),
    "kth": (0.95, (0, 0, 1 / 2)),
    "kitticaltech": (0.95, (0, 0, 1 / 2)),
    "bair": (0.95, (0, 0, 1 / 2)),
    "taxibj": (1, (0, 0, 1 / 2)),
    "weather": (0.96, (0, 0, 1 / 2)),
}
_FLIPS = ((1, 2), (1,), (2,), ())


@dataclasses.dataclass(frozen=True, eq=False)
class Zoomed:
    """The clips of a source, each drawn anew for every place in the sequence of batches.

    Attributes:
        source: records with a "video" (t, h, w, c).
        scale: share of the enlarged frame (bilinear) that is kept, in each direction.
        turns: probabilities of a half turn, a mirror top to bottom, and one left to right.
        seed: of the draws.
    """

    source: Source
    scale: float
    turns: tuple[float, float, float]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        """The record as it is drawn for a place in the sequence of batches."""
        record = self.source[index]
        video, rng = record["video"], np.random.default_rng((self.seed, index, place))
        height, width = video.shape[1:3]
        larger = int(height / self.scale), int(width / self.scale)
        if larger != (height, width):
            big = interpolate(video, larger)
            big = np.rint(big) if video.dtype == np.uint8 else big
            top, left = rng.integers(0, [larger[0] - height, larger[1] - width], endpoint=True)
            video = big[:, top : top + height, left : left + width].astype(video.dtype)
        flip = _FLIPS[rng.choice(4, p=[*self.turns, 1 - sum(self.turns)])]
        return {**record, "video": np.ascontiguousarray(np.flip(video, flip))}

    @property
    def spec(self) -> Record:
        """The source's, where it has one."""
        return self.source.spec
