"""Which keys a query sees: descriptions of masks, small and hashable, static under `jit`.

A mask is a rule between positions of a sequence, not an array. `Mask.visible` is its definition;
`Mask.blocks` says which blocks of the (query, key) plane a kernel has to visit at all. Masks of
maps and clips take the tokens in raster order: row by row, frame by frame.
"""

import dataclasses
import functools
import math
import operator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

Positions = Int[Array, "..."] | Int[np.ndarray, "..."]
Pairs = Bool[Array, "..."] | Bool[np.ndarray, "..."]

# What a block of (query, key) pairs holds.
EMPTY, PARTIAL, FULL = 0, 1, 2


class Mask:
    """Which keys every query sees. A mask defines `_sees`; those with structure, `blocks` too.

    `a & b` shows what both show, `a | b` what either shows.
    """

    def visible(self, query: Positions, key: Positions) -> Pairs:
        """Whether the query at one position sees the key at another; the arguments broadcast.

        NumPy arrays give a NumPy array, JAX arrays, traced ones too, a JAX array. A key before the
        start of the sequence (a cache's slot that nothing fills yet) is never seen.
        """
        return self._sees(query, key) & (key >= 0)

    def blocks(
        self,
        queries: int,
        keys: int,
        block_q: int,
        block_k: int,
        *,
        query_start: int = 0,
        key_start: int = 0,
    ) -> UInt8[np.ndarray, "rows columns"]:
        """EMPTY, PARTIAL or FULL for every block of the plane of (query, key) pairs.

        Args:
            queries, keys: how many there are; the last block of either may be shorter.
            block_q, block_k: queries and keys to a block.
            query_start, key_start: position of the first query and of the first key.
        """
        at = key_start + np.arange(keys)
        firsts = np.arange(0, keys, block_k)
        rows = []
        for first in range(0, queries, block_q):
            query = query_start + np.arange(first, min(first + block_q, queries))
            seen = np.add.reduceat(self._counts(query, at) * (at >= 0), firsts)
            pairs = len(query) * np.diff(firsts, append=keys)
            rows.append(_category(seen > 0, seen == pairs))
        return np.stack(rows)

    def check(self, queries: int, keys: int) -> None:
        """Raises ValueError, naming the field, if whole sequences of these lengths do not fit."""

    def _sees(self, query: Positions, key: Positions) -> Pairs:
        """`visible` where no key lies before the start of the sequence."""
        raise NotImplementedError

    def _counts(self, query, key) -> np.ndarray:
        """How many of the queries at these positions see each key."""
        return self.visible(query[:, None], key).sum(0)

    def __and__(self, other: "Mask") -> "Mask":
        return Both(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        return Either(self, other)


class _Band(Mask):
    """Keys from `before` steps before the query to `after` steps after it; None is no bound.

    A step is `unit` tokens.
    """

    unit: ClassVar[int] = 1

    def _sees(self, query, key):
        step = query // self.unit - key // self.unit
        return _within(step, step, self.before, self.after)

    def blocks(self, queries, keys, block_q, block_k, *, query_start=0, key_start=0):
        first_q, last_q = _ends(queries, block_q, query_start)
        first_k, last_k = _ends(keys, block_k, key_start)
        some, every = self._reach(first_q[:, None], last_q[:, None], np.maximum(first_k, 0), last_k)
        return _category(some & (last_k >= 0), every & (first_k >= 0))

    def _reach(self, first_q, last_q, first_k, last_k):
        """Whether some, and whether all, pairs of two intervals of positions lie in the band."""
        shortest = first_q // self.unit - last_k // self.unit
        longest = last_q // self.unit - first_k // self.unit
        # Between the two every step occurs, so some lies in the band unless all are off one side.
        return (
            _within(shortest, longest, self.before, self.after),
            _within(longest, shortest, self.before, self.after),
        )


@dataclasses.dataclass(frozen=True)
class Full(_Band):
    """Every query sees every key."""

    before: ClassVar[None] = None
    after: ClassVar[None] = None


@dataclasses.dataclass(frozen=True)
class Causal(_Band):
    """A query sees its own position and all before it."""

    before: ClassVar[None] = None
    after: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True)
class FrameCausal(_Band):
    """A query sees its own frame and all frames before it.

    Attributes:
        tokens: tokens to a frame.
    """

    tokens: int
    before: ClassVar[None] = None
    after: ClassVar[int] = 0

    def __post_init__(self):
        _positive("tokens", self.tokens)

    @property
    def unit(self) -> int:
        return self.tokens


@dataclasses.dataclass(frozen=True)
class SameFrame(Mask):
    """A query within a frame sees that frame; the tokens before and after all frames see nothing.

    `Causal() | SameFrame(...)` is a sequence of text and video that is causal but for its frames,
    each of which sees all of itself (Lumos-1: Yuan et al. 2025, arXiv 2507.08801).

    Attributes:
        start: position of the first frame's first token.
        tokens: tokens to a frame.
        frames: how many there are, one after the other.
    """

    start: int
    tokens: int
    frames: int

    def __post_init__(self):
        _positive("start", self.start, least=0)
        _positive("tokens", self.tokens)
        _positive("frames", self.frames, least=0)

    def _sees(self, query, key):
        query, key = self._frame(query), self._frame(key)
        return (query == key) & (query >= 0) & (query < self.frames)

    def blocks(self, queries, keys, block_q, block_k, *, query_start=0, key_start=0):
        first_q, last_q = map(self._frame, _ends(queries, block_q, query_start))
        first_k, last_k = map(self._frame, _ends(keys, block_k, key_start))
        first = np.maximum(np.maximum(first_q[:, None], first_k), 0)
        last = np.minimum(np.minimum(last_q[:, None], last_k), self.frames - 1)
        one = (first_q == last_q)[:, None] & (first_k == last_k)
        return _category(first <= last, one & (first <= last))

    def _frame(self, position):
        return (position - self.start) // self.tokens


@dataclasses.dataclass(frozen=True)
class SlidingWindow(_Band):
    """A query sees the keys from `before` positions before it to `after` positions after it."""

    before: int
    after: int = 0

    def __post_init__(self):
        _positive("before", self.before, least=0)
        _positive("after", self.after, least=0)


@dataclasses.dataclass(frozen=True)
class GlobalLocal(Mask):
    """A sliding window, and the first tokens, which see all and are seen by all.

    Longformer (Beltagy et al. 2020, arXiv 2004.05150, section 3.1).

    Attributes:
        globals: how many tokens, from the first on, are global.
        before, after: reach of the window of the others.
    """

    globals: int
    before: int
    after: int

    def __post_init__(self):
        _positive("globals", self.globals, least=0)
        _positive("before", self.before, least=0)
        _positive("after", self.after, least=0)

    @property
    def _local(self) -> SlidingWindow:
        return SlidingWindow(self.before, self.after)

    def _sees(self, query, key):
        return self._local._sees(query, key) | (query < self.globals) | (key < self.globals)

    def blocks(self, queries, keys, block_q, block_k, *, query_start=0, key_start=0):
        first_q, last_q = (ends[:, None] for ends in _ends(queries, block_q, query_start))
        first_k, last_k = _ends(keys, block_k, key_start)
        there = np.maximum(first_k, 0)
        some, _ = self._local._reach(first_q, last_q, there, last_k)
        some |= (first_q < self.globals) | (there < self.globals)
        # All is seen where all is seen among those that are not global, if there are any.
        rest_q, rest_k = np.maximum(first_q, self.globals), np.maximum(there, self.globals)
        _, every = self._local._reach(rest_q, last_q, rest_k, last_k)
        every |= (last_q < self.globals) | (last_k < self.globals)
        return _category(some & (last_k >= 0), every & (first_k >= 0))


@dataclasses.dataclass(frozen=True)
class Dilated(Mask):
    """Within segments, every `rate`-th token sees every `rate`-th token; the others see nothing.

    LongNet (Ding et al. 2023, arXiv 2307.02486, section 2.2) adds several of these up in the ratio
    of their softmax denominators, which is `stjax.ops.attention.merge`, and gives each head its own
    offset.

    Attributes:
        segment: tokens to a segment.
        rate: distance from one token that takes part to the next.
        offset: the first token of a segment that takes part.
    """

    segment: int
    rate: int
    offset: int = 0

    def __post_init__(self):
        _positive("segment", self.segment)
        _positive("rate", self.rate)
        if not 0 <= self.offset < min(self.rate, self.segment):
            raise ValueError(
                f"offset: {self.offset} instead of 0 to {min(self.rate, self.segment) - 1}"
            )

    def _sees(self, query, key):
        return (
            (query // self.segment == key // self.segment)
            & self._takes_part(query)
            & self._takes_part(key)
        )

    def _takes_part(self, position):
        return position % self.segment % self.rate == self.offset

    def _counts(self, query, key):
        first = query[0] // self.segment
        per_segment = np.bincount(query[self._takes_part(query)] // self.segment - first)
        segment = key // self.segment - first
        known = (segment >= 0) & (segment < len(per_segment)) & self._takes_part(key)
        return np.where(known, np.append(per_segment, 0)[np.where(known, segment, -1)], 0)


class _Grid(Mask):
    """A map of `shape` in raster order, where each axis has its say and all must agree."""

    def check(self, queries, keys):
        size = math.prod(self.shape)
        if (queries, keys) != (size, size):
            raise ValueError(
                f"shape: {self.shape} is a map of {size} tokens, not of {queries} queries and "
                f"{keys} keys"
            )

    def _sees(self, query, key):
        return self._along(range(len(self.shape)), query, key)

    def _along(self, axes, query, key):
        """Whether these axes agree; the positions count on the map of these axes alone."""
        agree, step = True, 1
        for axis in reversed(axes):
            size = self.shape[axis]
            agree = self._on_axis(axis, query // step % size, key // step % size) & agree
            step *= size
        return agree

    def _on_axis(self, axis, query, key):
        """Whether one axis agrees, from the places on it."""
        raise NotImplementedError

    def _counts(self, query, key):
        # The last axis and the others, multiplied out for the few rows that the queries touch.
        width, last = self.shape[-1], len(self.shape) - 1
        rows, row = np.unique(query // width, return_inverse=True)
        others = np.arange(math.prod(self.shape[:-1]))
        by_row = self._along(range(last), rows[:, None], others) * np.ones((len(rows), len(others)))
        columns = self._on_axis(last, (query % width)[:, None], np.arange(width))
        by_column = np.zeros((len(rows), width))
        np.add.at(by_column, row, columns)
        return (by_row.T @ by_column).ravel().astype(np.int64)[np.clip(key, 0, None)]


@dataclasses.dataclass(frozen=True)
class Windows(_Grid):
    """A query sees the tokens of its own window of a 1-, 2- or 3-dimensional map.

    A shift moves the windows forward, which cuts those at the edges: the same as Swin's rolling
    the map back, cutting it in windows and masking what was not neighbours before (Liu et al. 2021,
    arXiv 2103.14030, section 3.2; of clips arXiv 2106.13230).

    Attributes:
        shape: lengths of the map's axes.
        window: lengths of a window's; they divide those of the map.
        shift: how far the windows are moved, less than a window; () is not at all.
        cyclic: whether windows that a shift moves over an edge go on at the opposite one, where
            else the edge cuts them: rolled, and not masked.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...] = ()
    cyclic: bool = False

    def __post_init__(self):
        object.__setattr__(self, "shift", self.shift or (0,) * len(self.shape))
        _check_window(self.shape, self.window)
        if any(n % w for n, w in zip(self.shape, self.window)):
            raise ValueError(f"window: {self.window} does not divide a map of {self.shape}")
        if len(self.shift) != len(self.shape) or any(
            not 0 <= s < w for s, w in zip(self.shift, self.window)
        ):
            raise ValueError(f"shift: {self.shift} instead of less than a window, {self.window}")

    def _on_axis(self, axis, query, key):
        window, shift = self.window[axis], self.shift[axis]
        query, key = query - shift, key - shift
        if self.cyclic:
            query, key = query % self.shape[axis], key % self.shape[axis]
        return query // window == key // window


@dataclasses.dataclass(frozen=True)
class Neighbourhood(_Grid):
    """A query sees the tokens around it; at an edge the window moves inward and stays whole.

    Neighbourhood attention (Hassani et al. 2022, arXiv 2204.07143, section 3.1), with dilation
    (arXiv 2209.15001, section 3) and with axes that are causal (arXiv 2403.04690). Along an axis of
    n places the query at place p sees `window` of the places p mod dilation, p mod dilation +
    dilation, ...: those centred on its own, one more before than after if the number is even; on a
    causal axis its own and those before it, fewer at the start.

    Attributes:
        shape: lengths of the map's axes.
        window: how many places are seen along each axis.
        dilation: distance between places that are seen; one for all axes, or one each.
        causal: whether later places are hidden; one for all axes, or one each.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    dilation: int | tuple[int, ...] = 1
    causal: bool | tuple[bool, ...] = False

    def __post_init__(self):
        for name in ("dilation", "causal"):
            value = getattr(self, name)
            value = value if isinstance(value, tuple) else (value,) * len(self.shape)
            object.__setattr__(self, name, value)
            if len(value) != len(self.shape):
                raise ValueError(f"{name}: {value} instead of one for each axis of {self.shape}")
        if min(self.dilation) < 1:
            raise ValueError(f"dilation: {self.dilation} instead of 1 or more")
        _check_window(self.shape, self.window, self.dilation)

    def _on_axis(self, axis, query, key):
        size, window, dilation = self.shape[axis], self.window[axis], self.dilation[axis]
        place = query // dilation
        if self.causal[axis]:
            first, last = place - window + 1, place
        else:
            members = (size - query % dilation + dilation - 1) // dilation
            first = _module(place).clip(place - window // 2, 0, members - window)
            last = first + window - 1
        comrade = query % dilation == key % dilation
        return comrade & (key // dilation >= first) & (key // dilation <= last)


class Blocks(Mask):
    """Whole blocks of `block` by `block` pairs, seen or not as `table` says.

    Where `beyond` is set, blocks past the table are as its last row and column.
    """

    table: Bool[np.ndarray, "rows columns"]
    block: int
    beyond: ClassVar[bool] = False

    def _sees(self, query, key):
        rows, columns = self.table.shape
        xp = _module(query, key)
        row = xp.clip(query // self.block, 0, rows - 1)
        return xp.asarray(self.table)[row, xp.clip(key // self.block, 0, columns - 1)]

    def blocks(self, queries, keys, block_q, block_k, *, query_start=0, key_start=0):
        first_k, last_k = _ends(keys, block_k, key_start)
        rows, columns = self.table.shape
        first_row, last_row = self._span(*_ends(queries, block_q, query_start), rows)
        first_column, last_column = self._span(np.maximum(first_k, 0), last_k, columns)
        # How many blocks are seen above and left of every corner of the table.
        corners = np.pad(self.table.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        upper, lower = corners[first_row], corners[last_row + 1]
        seen = (lower - upper)[:, last_column + 1] - (lower - upper)[:, first_column]
        area = (last_row - first_row + 1)[:, None] * (last_column - first_column + 1)
        return _category((seen > 0) & (last_k >= 0), (seen == area) & (first_k >= 0))

    def _span(self, first, last, length):
        return tuple(np.clip(ends // self.block, 0, length - 1) for ends in (first, last))

    def check(self, queries, keys):
        rows, columns = (-(-n // self.block) for n in (queries, keys))
        fits = (rows, columns) == self.table.shape
        if self.beyond:
            fits = rows >= self.table.shape[0] - 1 and columns >= self.table.shape[1] - 1
        if not fits:
            raise ValueError(
                f"table: {self.table.shape} blocks of {self.block} do not cover {queries} queries "
                f"and {keys} keys"
            )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BlockSparse(Blocks):
    """Any pattern of whole blocks.

    Attributes:
        table: boolean, (blocks of queries, blocks of keys): nested sequences, or an array.
        block: tokens to a block, of either kind.
    """

    table: Bool[np.ndarray, "rows columns"]
    block: int

    def __post_init__(self):
        _positive("block", self.block)
        table = np.array(self.table, bool)
        if table.ndim != 2 or not table.size:
            raise ValueError(f"table: {table.shape} instead of (rows, columns)")
        table.flags.writeable = False
        object.__setattr__(self, "table", table)

    @functools.cached_property
    def _identity(self):
        return self.table.shape, self.table.tobytes(), self.block

    def __hash__(self):
        return hash(self._identity)

    def __eq__(self, other):
        return type(other) is type(self) and self._identity == other._identity

    def __repr__(self):
        kept = f"{self.table.sum()} of {self.table.size}"
        return f"BlockSparse({kept} in {self.table.shape}, block={self.block})"


@dataclasses.dataclass(frozen=True)
class _Pair(Mask):
    """Two masks in one: `_join` is of what they see, `_merge` of the categories of their blocks."""

    first: Mask
    second: Mask

    def check(self, queries, keys):
        self.first.check(queries, keys)
        self.second.check(queries, keys)

    def _sees(self, query, key):
        return self._join(self.first._sees(query, key), self.second._sees(query, key))

    def blocks(self, queries, keys, block_q, block_k, *, query_start=0, key_start=0):
        first, second = (
            mask.blocks(
                queries, keys, block_q, block_k, query_start=query_start, key_start=key_start
            )
            for mask in (self.first, self.second)
        )
        merged = self._merge(first, second)
        # What two partial blocks make together only their pairs can tell.
        for row, column in np.argwhere((first == PARTIAL) & (second == PARTIAL)):
            query = query_start + np.arange(row * block_q, min((row + 1) * block_q, queries))
            key = key_start + np.arange(column * block_k, min((column + 1) * block_k, keys))
            pairs = self.visible(query[:, None], key)
            merged[row, column] = _category(pairs.any(), pairs.all())
        return merged


class Both(_Pair):
    """What both masks show."""

    _join = staticmethod(operator.and_)
    _merge = staticmethod(np.minimum)


class Either(_Pair):
    """What at least one of the masks shows."""

    _join = staticmethod(operator.or_)
    _merge = staticmethod(np.maximum)


def _module(*arrays):
    """Where the functions of these arrays are: jax.numpy for JAX's own, else numpy."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def _ends(length, block, start):
    """First and last position of every block."""
    first = np.arange(0, length, block)
    return start + first, start + np.minimum(first + block, length) - 1


def _within(low, high, before, after):
    """Whether `low` is at most `before` and `high` at least -`after`; None is no bound."""
    xp = _module(low, high)
    within = xp.ones(np.broadcast_shapes(np.shape(low), np.shape(high)), bool)
    if before is not None:
        within &= low <= before
    if after is not None:
        within &= high >= -after
    return within


def _category(some, every):
    return np.where(every, FULL, np.where(some, PARTIAL, EMPTY)).astype(np.uint8)


def _positive(name, value, least=1):
    if value < least:
        raise ValueError(f"{name}: {value} instead of {least} or more")


def _check_window(shape, window, dilation=None):
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"shape: {shape} instead of one to three lengths")
    if len(window) != len(shape) or min(window) < 1:
        raise ValueError(f"window: {window} instead of one length for each axis of {shape}")
    reach = [w * d for w, d in zip(window, dilation or (1,) * len(window))]
    if any(r > n for r, n in zip(reach, shape)):
        spread = f" with dilation {dilation}" if dilation and max(dilation) > 1 else ""
        raise ValueError(f"window: {window}{spread} is larger than the map of {shape}")
