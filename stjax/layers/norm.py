"""Normalisation layers."""

from typing import Any

import flax.linen as nn


def frame_group_norm(groups: int, **options: Any) -> nn.GroupNorm:
    """GroupNorm over the map of each frame, whatever axes lead: x is (..., h, w, c).

    flax's own takes all axes but the first, and so would look along time.
    """
    return nn.GroupNorm(groups, reduction_axes=(-3, -2, -1), **options)
