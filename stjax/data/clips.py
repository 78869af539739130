"""Which frames of a video make a clip, in training and in testing.

SlowFast's and UniFormer's samplers; frames count from 0. `rng` draws a training clip, a view a test
one.
"""

import numpy as np
from jaxtyping import Int

Frames = Int[np.ndarray, " frames"]


def dense(
    length: int,
    frames: int,
    stride: int,
    view: int = 0,
    views: int = 1,
    rng: np.random.Generator | None = None,
) -> Frames:
    """`frames` frames spread over `frames * stride` successive ones, ends included.

    Args:
        length: frames of the video; where it is shorter than the span, the last one is repeated.
        view, views: of a test, see `dense_start`.
        rng: draws the start; the view is not asked for.
    """
    span = frames * stride
    if rng is None:
        start = dense_start(length, span, view, views)
    else:
        start = rng.uniform(0, max(length - span, 0))
    places = np.linspace(start, start + span - 1, frames, dtype=np.float32)
    return np.clip(places, 0, length - 1).astype(np.int64)


def dense_start(length: int, span: int, view: int, views: int) -> int:
    """Where a test's span starts: at whole multiples of one distance; one alone in the middle."""
    free = max(length - span, 0)
    return free // 2 if views == 1 else view * (free // (views - 1))


def segments(
    length: int, frames: int, view: int = 0, views: int = 1, rng: np.random.Generator | None = None
) -> Frames:
    """A frame from each of `frames` equal segments (TSN, Wang et al. 2016, arXiv 1608.00859).

    Args:
        view, views: a test's frame lies (view + 1) / (views + 1) into its segment, rounded down.
        rng: draws a place in each segment, both borders included; the view is not asked for.
    """
    size = (length - 1) / frames
    borders = np.rint(size * np.arange(frames + 1)).astype(np.int64)
    if rng is not None:
        return rng.integers(borders[:-1], borders[1:], endpoint=True)
    return borders[:-1] + int(size / (views + 1) * (view + 1))
