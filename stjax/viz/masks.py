"""Pictures of segmented video: contours of truth and prediction over the frames."""

import numpy as np
from jaxtyping import Float, Int

from stjax.viz.frames import Picture, Video, moving, spread, strips

Labels = Int[np.ndarray, "b t h w"]

# Told apart by colour-blind readers too, and on grey.
_TRUE, _PREDICTED = (86, 180, 233), (230, 159, 0)
_TINT = 0.2  # share of the colour within a mask


def mask_sheet(
    video: Video,
    predicted: Labels,
    true: Labels,
    labelled: Float[np.ndarray, "b t"],
    *,
    columns: int = 10,
) -> Picture:
    """Two rows a clip over time: the frames with the true masks, and with the predicted ones.

    Args:
        video: frames in [0, 1].
        predicted, true: classes; 0 is the background.
        labelled: 0 for frames without a true mask, which are shown as they are.
        columns: at most so many frames, evenly spaced.
    """
    times = spread(video.shape[1], columns)
    numbers = [str(time + 1) for time in times]
    blocks = [
        [("truth", row["truth"][times], numbers), ("prediction", row["prediction"][times], None)]
        for row in _overlaid(video, predicted, true, labelled, 72)
    ]
    return strips(blocks, scale=1)


def moving_masks(
    video: Video, predicted: Labels, true: Labels, labelled: Float[np.ndarray, "b t"]
) -> np.ndarray:
    """The clip, the true masks and the predicted ones side by side, moving; a row a clip."""
    captions = [str(time + 1) for time in range(video.shape[1])]
    return moving(_overlaid(video, predicted, true, labelled, 128), captions, scale=1)


def overlaid(
    frames: Float[np.ndarray, "t h w c"],
    masks: Int[np.ndarray, "t h w"],
    colour: tuple[int, int, int],
    scale: int = 1,
) -> Float[np.ndarray, "t h*scale w*scale 3"]:
    """Enlarged frames in colour: every class but the first tinted, with a contour round it."""
    larger = lambda x: x.repeat(scale, 1).repeat(scale, 2)
    frames, masks = larger(np.asarray(frames)), larger(np.asarray(masks))
    grey = np.repeat(frames.mean(-1, keepdims=True), 3, -1)
    frames = frames if frames.shape[-1] == 3 else grey
    edge = np.zeros(masks.shape, bool)
    for axis in (1, 2):
        for step in (-1, 1):
            edge |= np.roll(masks, step, axis) != masks
    share = np.where(edge & (masks > 0), 1, _TINT * (masks > 0))[..., None]
    return (1 - share) * frames + share * np.divide(colour, 255)


def _overlaid(video, predicted, true, labelled, least):
    scale = -(-least // min(video.shape[2:4]))
    true = np.where(np.asarray(labelled)[..., None, None] > 0, true, 0)
    plain = np.zeros_like(true)
    rows = {"clip": plain, "truth": true, "prediction": predicted}
    colours = {"clip": _TRUE, "truth": _TRUE, "prediction": _PREDICTED}
    return [
        {name: overlaid(frames, rows[name][k], colours[name], scale) for name in rows}
        for k, frames in enumerate(video)
    ]
