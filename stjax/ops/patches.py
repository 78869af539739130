"""Frames cut into square patches, and back."""

from typing import Literal

import einops
from jaxtyping import Array, Shaped

Order = Literal["row column channel", "channel row column"]


def patchify(
    frames: Shaped[Array, "... height width c"], size: int
) -> Shaped[Array, "... h w size*size*c"]:
    """Puts every patch of `size` by `size` pixels on the channel axis, as (row, column, channel).

    Raises:
        ValueError: height or width is not divisible by `size`.
    """
    height, width = frames.shape[-3:-1]
    if height % size or width % size:
        raise ValueError(f"frames of {height} x {width} pixels do not divide in patches of {size}")
    return einops.rearrange(frames, "... (h p) (w q) c -> ... h w (p q c)", p=size, q=size)


def unpatchify(
    patches: Shaped[Array, "... h w size*size*c"], size: int, order: Order = "row column channel"
) -> Shaped[Array, "... height width c"]:
    """Inverse of `patchify`, for patches whose entries stand in the given order.

    In the order "channel row column" it is PyTorch's PixelShuffle.
    """
    inner = {"row column channel": "(p q c)", "channel row column": "(c p q)"}[order]
    pattern = f"... h w {inner} -> ... (h p) (w q) c"
    return einops.rearrange(patches, pattern, p=size, q=size)
