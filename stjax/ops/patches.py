"""Frames cut into square patches, and back."""

from typing import Literal

import einops
from jaxtyping import Array, Shaped

Order = Literal["row column channel", "channel row column"]


def patchify(
    video: Shaped[Array, "b t height width c"], size: int
) -> Shaped[Array, "b t h w size*size*c"]:
    """Puts every patch of `size` by `size` pixels on the channel axis, as (row, column, channel).

    Raises:
        ValueError: height or width is not divisible by `size`.
    """
    height, width = video.shape[2:4]
    if height % size or width % size:
        raise ValueError(f"frames of {height} x {width} pixels do not divide in patches of {size}")
    return einops.rearrange(video, "b t (h p) (w q) c -> b t h w (p q c)", p=size, q=size)


def unpatchify(
    patches: Shaped[Array, "b t h w size*size*c"], size: int, order: Order = "row column channel"
) -> Shaped[Array, "b t height width c"]:
    """Inverse of `patchify`, for patches whose entries stand in the given order."""
    inner = {"row column channel": "(p q c)", "channel row column": "(c p q)"}[order]
    pattern = f"b t h w {inner} -> b t (h p) (w q) c"
    return einops.rearrange(patches, pattern, p=size, q=size)
