"""Clips whose frames are image files."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def read(paths: Sequence[pathlib.Path]) -> UInt8[np.ndarray, "t h w 3"]:
    """The images of one clip.

    Raises:
        FileNotFoundError, ValueError: one line that names the file that is absent, damaged, or of
            another size than the first.
    """
    frames = [_image(path) for path in paths]
    for path, frame in zip(paths, frames):
        if frame.shape != frames[0].shape:
            (h, w, _), (height, width, _) = frame.shape, frames[0].shape
            raise ValueError(f"{path}: {h} x {w} pixels, and {paths[0].name} {height} x {width}")
    return np.stack(frames)


def _image(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
