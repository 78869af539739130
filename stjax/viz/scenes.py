"""Colours of what is seen in a scene besides colour: frames in [0, 1], for `stjax.viz.frames`."""

import colorsys

import numpy as np
from jaxtyping import Float, Int

Colours = Float[np.ndarray, "*n h w 3"]

# From near to far: light to dark, told apart by colour-blind readers too (viridis' corners).
_DEPTHS = np.array(
    [(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float32
) / 255  # fmt: skip
# Okabe and Ito's colours; after them the same again.
_PARTS = np.array(
    [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
     (213, 94, 0), (204, 121, 167)], np.float32
) / 255  # fmt: skip


def of_depth(depth: Float[np.ndarray, "*n h w"], far: float) -> Colours:
    """From yellow (near) to violet (`far` and beyond), by the root; white where there is none."""
    share = np.sqrt(np.clip(depth / far, 0, 1)) * (len(_DEPTHS) - 1)
    low = np.minimum(share.astype(int), len(_DEPTHS) - 2)
    part = (share - low)[..., None]
    colours = (1 - part) * _DEPTHS[low] + part * _DEPTHS[low + 1]
    return np.where((depth > 0)[..., None], colours, 1.0).astype(np.float32)


def of_flow(flow: Float[np.ndarray, "*n h w 3"], fastest: float | None = None) -> Colours:
    """Velocities over the ground: the hue is the direction of x and y, white stands still.

    Args:
        fastest: the speed of full colour; None: the fastest there is.
    """
    speed = np.linalg.norm(flow, axis=-1, keepdims=True)
    fastest = fastest or max(float(speed.max(initial=0)), 1e-6)
    turns = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    wheel = np.array([colorsys.hsv_to_rgb(k / 360, 1, 0.9) for k in range(360)], np.float32)
    strength = np.clip(speed / fastest, 0, 1)
    return 1 - strength * (1 - wheel[(turns * 360).astype(int) % 360])


def of_parts(parts: Int[np.ndarray, "*n h w"]) -> Colours:
    """A colour a part."""
    return _PARTS[parts % len(_PARTS)]
