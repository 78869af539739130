"""Augmentation of clips on the host, in numpy and pillow: the same draw for all frames of a clip.

What timm, SlowFast and UniFormer do. Every function of a generator is a function of its seed.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

Clip = UInt8[np.ndarray, "t h w c"]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

_GREY = (128, 128, 128)  # what shows where a frame was moved away


def _affine(frame: Image.Image, *matrix: float) -> Image.Image:
    return frame.transform(
        frame.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=_GREY
    )


def _solarize_add(frame, amount):
    table = [min(255, value + amount) if value < 128 else value for value in range(256)]
    return frame.point(table * 3)


# Name -> (frame, strength in [0, 1], sign) -> frame, with the strengths of timm's "increasing" set.
OPERATIONS = {
    "AutoContrast": lambda frame, m, sign: ImageOps.autocontrast(frame),
    "Equalize": lambda frame, m, sign: ImageOps.equalize(frame),
    "Invert": lambda frame, m, sign: ImageOps.invert(frame),
    "Rotate": lambda frame, m, sign: frame.rotate(
        30 * m * sign, Image.Resampling.BICUBIC, fillcolor=_GREY
    ),
    "PosterizeIncreasing": lambda frame, m, sign: ImageOps.posterize(frame, 4 - int(4 * m)),
    "SolarizeIncreasing": lambda frame, m, sign: ImageOps.solarize(frame, 256 - int(256 * m)),
    "SolarizeAdd": lambda frame, m, sign: _solarize_add(frame, int(110 * m)),
    "ColorIncreasing": lambda frame, m, sign: ImageEnhance.Color(frame).enhance(1 + 0.9 * m * sign),
    "ContrastIncreasing": lambda frame, m, sign: ImageEnhance.Contrast(frame).enhance(
        1 + 0.9 * m * sign
    ),
    "BrightnessIncreasing": lambda frame, m, sign: ImageEnhance.Brightness(frame).enhance(
        1 + 0.9 * m * sign
    ),
    "SharpnessIncreasing": lambda frame, m, sign: ImageEnhance.Sharpness(frame).enhance(
        1 + 0.9 * m * sign
    ),
    "ShearX": lambda frame, m, sign: _affine(frame, 1, 0.3 * m * sign, 0, 0, 1, 0),
    "ShearY": lambda frame, m, sign: _affine(frame, 1, 0, 0, 0.3 * m * sign, 1, 0),
    "TranslateXRel": lambda frame, m, sign: _affine(
        frame, 1, 0, 0.45 * m * sign * frame.width, 0, 1, 0
    ),
    "TranslateYRel": lambda frame, m, sign: _affine(
        frame, 1, 0, 0, 0, 1, 0.45 * m * sign * frame.height
    ),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """A few operations, drawn with replacement (Cubuk et al. 2019, arXiv 1909.13719).

    Attributes:
        magnitude, spread: of the operations, of 10: normal, clipped to [0, 10].
        count: operations drawn; each takes place with probability 1/2.
    """

    magnitude: float = 7
    count: int = 4
    spread: float = 0.5

    @classmethod
    def named(cls, name: str) -> "RandAugment":
        """Reads timm's name of it, "rand-m7-n4-mstd0.5-inc1".

        Raises:
            ValueError: another form.
        """
        match = re.fullmatch(r"rand-m([\d.]+)-n(\d+)-mstd([\d.]+)-inc1", name)
        if not match:
            raise ValueError(f"data.augment: {name!r} is not of the form rand-m7-n4-mstd0.5-inc1")
        return cls(float(match[1]), int(match[2]), float(match[3]))

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Clip:
        names = rng.choice(list(OPERATIONS), self.count)
        happens = rng.uniform(size=self.count) < 0.5
        strengths = np.clip(rng.normal(self.magnitude, self.spread, self.count), 0, 10) / 10
        signs = rng.choice([-1, 1], self.count)
        frames = [Image.fromarray(frame) for frame in clip]
        for name, strength, sign in zip(names[happens], strengths[happens], signs[happens]):
            frames = [OPERATIONS[name](frame, strength, sign) for frame in frames]
        return np.stack([np.asarray(frame) for frame in frames])


def random_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box of a random share of the frame and a random aspect, in it (Szegedy et al. 2014).

    The first of ten draws that fits, else the largest box in the middle of an aspect that may be.
    """
    for _ in range(10):
        size = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        w, h = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, [width - w, height - h], endpoint=True)
            return left, top, left + w, top + h
    w, h = min(width, round(height * aspect[1])), min(height, round(width / aspect[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_boxes(height: int, width: int, crops: int) -> list[Box]:
    """Squares as high or wide as the frame: the middle one, or the first, middle and last.

    Raises:
        ValueError: neither 1 nor 3.
    """
    if crops not in (1, 3):
        raise ValueError(f"test.crops: {crops} is neither 1 nor 3")
    side = min(height, width)
    free = max(height, width) - side
    starts = [round(free / 2)] if crops == 1 else [0, round(free / 2), free]
    along = lambda start: (start, 0, start + side, side)
    down = lambda start: (0, start, side, start + side)
    return [along(start) if width >= height else down(start) for start in starts]


def crop(clip: Clip, box: Box, size: int, mirrored: bool = False) -> Clip:
    """A box of every frame, brought to size x size (bilinear, antialiased), mirrored if asked."""
    frames = [
        Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR, box=box)
        for frame in clip
    ]
    out = np.stack([np.asarray(frame) for frame in frames])
    return np.ascontiguousarray(out[:, :, ::-1]) if mirrored else out


def augmented(
    clip: Clip,
    size: int,
    operations: Sequence[RandAugment],
    flip: bool,
    rng: np.random.Generator,
) -> Clip:
    """A training clip: the operations, a random box of it, and maybe its mirror image."""
    for operation in operations:
        clip = operation(clip, rng)
    box = random_box(*clip.shape[1:3], rng)
    return crop(clip, box, size, flip and rng.uniform() < 0.5)
