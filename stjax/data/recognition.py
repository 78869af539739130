"""Data sets of classified clips, by name."""

from stjax.data import Splits
from stjax.data import digits as digit_images
from stjax.data.motions import CLASSES, Motions
from stjax.data.video_files import VideoClips


def load(
    source: str = "motions",
    *,
    root: str = "",
    classes: int = len(CLASSES),
    frames: int = 8,
    stride: int = 1,
    size: int = 32,
    repeats: int = 1,
    augment: str = "",
    flip: bool = False,
    digits: str = "sklearn",
    count_train: int = 0,
    count_test: int = 0,
    views: int = 1,
    crops: int = 1,
    seed: int = 0,
) -> tuple[Splits, tuple[str, ...]]:
    """Training and test clips, and the names of their classes (numbers, where there are none).

    Args:
        source: "motions": made (`stjax.data.motions`); "folders:<path>": video files in a folder
            a class, below train/ and test/, or every sixth of a class to test;
            "lists:<training list>,<test list>": what label files name.
        root: folder that lists' paths are relative to.
        classes: how many there are; the data must not hold another.
        frames, stride: of a clip, see `stjax.data.clips.dense`; stride 0: a frame from each of as
            many segments.
        size: height and width in pixels.
        repeats: augmented copies of a training video.
        augment: of training clips, such as "rand-m7-n4-mstd0.5-inc1"; "": crops alone.
        flip: half of the training clips are mirrored.
        digits: what moves, as in `stjax.data.load`.
        count_train, count_test: at most so many; 0: all (10,000,000 and 1,000 made ones).
        views, crops: clips of a test video, crops of each (1 or 3); their scores are averaged.
        seed: of what is drawn.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, name = source.partition(":")
    if source == "motions":
        if classes != len(CLASSES):
            raise ValueError(f"data.classes: {classes}; 'motions' has {len(CLASSES)}")
        counts = (count_train or 10_000_000, count_test or 1000)
        train, test = (
            Motions(of_split, size, frames, count, (seed, split))
            for split, (of_split, count) in enumerate(zip(digit_images.load(digits), counts))
        )
        return Splits(train, test), CLASSES
    if kind not in ("folders", "lists") or not name:
        raise ValueError(
            f"unknown source {source!r}; there are motions, folders:<path>, "
            "lists:<training list>,<test list>"
        )
    options = {"source": source, "root": root, "classes": classes, "frames": frames,
               "stride": stride, "size": size, "seed": seed}
    train = VideoClips(
        **options, training=True, count=count_train, repeats=repeats, augment=augment, flip=flip
    )
    test = VideoClips(**options, training=False, count=count_test, views=views, crops=crops)
    return Splits(train, test), ()
