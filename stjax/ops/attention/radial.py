"""Radial attention: what a clip's tokens see thins out with distance in time and in space.

Li et al. 2025, arXiv 2506.19852: every doubling of the distance between two frames halves the
width of the diagonal that is kept between them, so that cost grows as n log n in the frames.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Bool

from stjax.ops.attention.masks import Blocks, Mask

# The released code splits diagonals thinner than this, whatever its blocks.
_THINNEST = 128


@dataclasses.dataclass(frozen=True)
class Radial(Mask):
    """The paper's mask (Eq. 4), token by token.

    With p the largest power of two up to the distance of two frames (1 where they are the same) and
    s the tokens of a frame, places k and l in them see each other if p (|k - l| + 1) <= s, or if
    k = l and ceil(p / s) divides the distance.

    Attributes:
        tokens: tokens to a frame, in raster order.
        sink: whether all see the whole first frame.
    """

    tokens: int
    sink: bool = True

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens: {self.tokens} to a frame")

    def _sees(self, query, key):
        distance = abs(query // self.tokens - key // self.tokens)
        apart = abs(query % self.tokens - key % self.tokens)
        power = _power_of_two(distance)
        thin = distance % -(-power // self.tokens) == 0
        seen = (power * (apart + 1) <= self.tokens) | ((apart == 0) & thin)
        return seen | (key < self.tokens) if self.sink else seen

    def _counts(self, query, key):
        """Frame by frame of the queries, whose places are an interval in each."""
        total = np.zeros(key.shape, np.int64)
        place, width = key % self.tokens, self.tokens
        for frame in np.unique(query // width):
            first, last = (np.clip(q - frame * width, 0, width - 1) for q in query[[0, -1]])
            distance = abs(frame - key // width)
            power = _power_of_two(distance)
            # The farthest apart that two places may be; -1 where not even the same one is seen.
            reach = np.where(distance % -(-power // width) == 0, 0, -1)
            reach = np.maximum(reach, width // power - 1)
            if self.sink:
                reach = np.where(key // width == 0, width, reach)
            low, high = np.maximum(place - reach, first), np.minimum(place + reach, last)
            total += np.where(reach < 0, 0, np.maximum(high - low + 1, 0))
        return total


@dataclasses.dataclass(frozen=True)
class RadialBlocks(Blocks):
    """The mask of the released code, in whole blocks.

    github.com/mit-han-lab/radial-attention, `gen_log_mask_shrinked`. It is not the paper's: frames
    next to each other see each other whole, a diagonal is never thinner than a block (far frames
    are dropped periodically instead), and a block counts if enough of its columns are dense. Tokens
    past the clip (text), and those of the clip that share a block with them, see all and are seen
    by all.

    Attributes:
        tokens: tokens to a frame, in raster order.
        frames: how many frames.
        block: tokens to a block.
        decay: factor on the width of the diagonals.
        model: "wan", where all see the whole first frame, or "hunyuan", where they do not.
    """

    tokens: int
    frames: int
    block: int = 128
    decay: float = 1.0
    model: str = "wan"
    beyond: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("tokens", "frames", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} instead of 1 or more")
        if self.model not in ("wan", "hunyuan"):
            raise ValueError(f"model: {self.model!r} is neither 'wan' nor 'hunyuan'")

    @property
    def table(self) -> Bool[np.ndarray, "rows columns"]:
        return _table(self)

    def half_width(self, distance: int) -> float:
        """How far apart places may be that are seen between frames at this distance."""
        if distance <= 1:
            return self.tokens
        return max(self.block, self._length(distance) * self.decay)

    def keeps(self, distance: int) -> bool:
        """Whether frames at this distance see each other at all."""
        length = self._length(distance)
        return length >= _THINNEST or distance % int(_THINNEST / length) == 0

    def _length(self, distance):
        """What is left of a frame's diagonal, halved at every doubling of the distance.

        It starts from the power of two above the frame's tokens, not at or above.
        """
        return 2.0 ** (self.tokens.bit_length() - distance.bit_length())


@functools.lru_cache(maxsize=8)
def _table(mask: RadialBlocks) -> Bool[np.ndarray, "rows columns"]:
    """The clip's blocks, and one more for all that follows."""
    tokens, block, border = mask.tokens, mask.block, mask.tokens * mask.frames // mask.block
    table = np.zeros((border + 1, border + 1), bool)
    for i, j in np.ndindex(mask.frames, mask.frames):
        sink = j == 0 and mask.model == "wan"
        if not (sink or mask.keeps(abs(i - j))):
            continue
        width = tokens if sink else math.floor(mask.half_width(abs(i - j)))
        (row, inset), (column, margin) = divmod(i * tokens, block), divmod(j * tokens, block)
        part = table[row:, column:]
        kept = _frame_pair(min(width, tokens), inset, margin, tokens, block)
        kept = kept[: part.shape[0], : part.shape[1]]
        part[: kept.shape[0], : kept.shape[1]] |= kept
    table[border:] = table[:, border:] = True
    table.flags.writeable = False
    return table


@functools.lru_cache(maxsize=4096)
def _frame_pair(width, inset, margin, tokens, block) -> Bool[np.ndarray, "rows columns"]:
    """Which blocks a diagonal of this half width between two frames fills well enough.

    The frames begin `inset` rows and `margin` columns into their first blocks. A block counts if
    more than 0.6 of the columns that have anything in it are kept in more than a third of its rows.
    As in the released code, what reaches beyond as many blocks as a frame fills is cut off.
    """
    blocks = -(-tokens // block)
    first = np.arange(blocks)[:, None] * block - inset
    place = np.arange(blocks * block) - margin
    low = np.maximum(np.maximum(first, place - width), 0)
    high = np.minimum(np.minimum(first + block - 1, place + width), tokens - 1)
    rows = np.where((place >= 0) & (place < tokens), np.maximum(high - low + 1, 0), 0)
    rows = rows.reshape(blocks, blocks, block)
    dense, touched = (3 * rows > block).sum(-1), (rows > 0).sum(-1)
    return 5 * dense > 3 * touched


def _power_of_two(distance):
    """The largest power of two up to an integer array's entries; 1 for 0."""
    filled = distance
    for shift in (1, 2, 4, 8, 16):
        filled = filled | filled >> shift
    return filled - (filled >> 1) + (distance == 0)
