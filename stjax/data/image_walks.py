"""Images to walk over: a folder of them, and walks generated or read."""

import dataclasses
import functools
import pathlib

import numpy as np
from jaxtyping import Int, UInt8

from stjax.data.records import Record, resize

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_WALK = ("positions", "actions")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of a folder and those below it, in the order of their names (FFHQ's thumbnails).

    Attributes:
        files: of images, at least `size` pixels high and wide.
        size: height and width that the middle square is averaged to.
    """

    files: tuple[pathlib.Path, ...]
    size: int

    @classmethod
    def below(cls, folder: pathlib.Path, size: int) -> "ImageFolder":
        files = sorted(p for p in folder.rglob("[!.]*") if p.suffix.lower() in _IMAGES)
        if not files:
            raise FileNotFoundError(f"{folder}: no images")
        return cls(tuple(files), size)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        from PIL import Image, UnidentifiedImageError

        path = self.files[index]
        try:
            with Image.open(path) as stored:
                pixels = np.asarray(stored.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path}: no image that can be read ({error})") from None
        side = min(pixels.shape[:2])
        if side < self.size:
            raise ValueError(f"{path}: image {pixels.shape}, and {self.size} pixels are wanted")
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        return resize(pixels[None, top : top + side, left : left + side], self.size)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Photographs:
    """Squares cut out of the two photographs that come with scikit-learn.

    Squares of the last fifth of each are test images; no training square reaches into it.
    """

    count: int
    size: int
    seed: int = 0
    split: int = 0

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        rng = np.random.default_rng((self.seed, self.split, index))
        photograph = self._photographs[index % len(self._photographs)]
        height, width = photograph.shape[:2]
        border = width * 4 // 5
        low, high = (border, width) if self.split else (0, border)
        side = rng.integers(self.size, min(height, high - low) + 1)
        top, left = rng.integers(0, height - side + 1), rng.integers(low, high - side + 1)
        square = photograph[top : top + side, left : left + side]
        square = square[:, ::-1] if rng.integers(2) else square
        return resize(square[None], self.size)[0]

    @functools.cached_property
    def _photographs(self) -> list[np.ndarray]:
        from sklearn.datasets import load_sample_images

        return load_sample_images().images

    def __getstate__(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageWalks:
    """An "image" (size, size, 3) each, and a walk: a "seed" of one, or one that was stored.

    Attributes:
        images: a source of images.
        walks: "positions" (n, t, 2), "actions" (n, t - 1) of the authors' `*_knn_sort.npz`; None:
            walks are made on the device. In each epoch an image meets other walks.
        seed, split: of the seeds.
    """

    images: ImageFolder | Photographs
    walks: dict[str, Int[np.ndarray, "n ..."]] | None = None
    seed: int = 0
    split: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        image = self.images.image(index)
        if self.walks is None:
            seed = np.random.SeedSequence((self.seed, self.split, place)).generate_state(2)
            return {"image": image, "seed": seed}
        walk = place % len(self.walks["positions"])
        return {"image": image, **{k: v[walk].astype(np.int32) for k, v in self.walks.items()}}


@dataclasses.dataclass(frozen=True)
class Splits:
    train: ImageWalks
    test: ImageWalks


def load(
    source: str = "photographs", *, walks: tuple[str, str] | tuple = (), size: int = 88,
    grid: int = 10, length: int = 289, count_train: int = 10_000, count_test: int = 500,
    seed: int = 0,
) -> Splits:
    """Images and walks by name.

    Args:
        source: "photographs", or "folder:<path>", of train/ and eval/.
        walks: files of the walks to train on and to test on; none: they are generated.
        size: height and width of images.
        grid, length: cells across, and positions, that stored walks must have.
        count_train, count_test: of squares of photographs.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    kind, _, folder = source.partition(":")
    if source == "photographs":
        images = [Photographs(n, size, seed, k) for k, n in enumerate((count_train, count_test))]
    elif kind == "folder" and folder:
        images = [ImageFolder.below(pathlib.Path(folder) / s, size) for s in ("train", "eval")]
    else:
        raise ValueError(f"data.source: {source!r} is neither photographs nor folder:<path>")
    stored = [_walks(pathlib.Path(path), grid, length) for path in walks] or [None, None]
    return Splits(*(ImageWalks(images[k], stored[k], seed, k) for k in range(2)))


def clusters(side: int, number: int, seed: int = 0) -> tuple[int, ...]:
    """The groups of neighbouring cells that are places: K-means of their coordinates in [0, 1]."""
    from sklearn.cluster import KMeans

    cells = np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2) / np.float32(side - 1)
    found = KMeans(number, n_init=1, random_state=seed).fit(cells.astype(np.float32))
    return tuple(map(int, found.labels_))


def _walks(path: pathlib.Path, grid: int, length: int) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with np.load(path) as entries:
        if missing := [name for name in _WALK if name not in entries.files]:
            raise ValueError(f"{path}: no entry {missing[0]!r}; there are {entries.files}")
        walks = {name: entries[name] for name in _WALK}
    shapes = {"positions": (length, 2), "actions": (length - 1,)}
    for name, shape in shapes.items():
        if walks[name].shape[1:] != shape:
            raise ValueError(f"{path}: {name} {walks[name].shape}, wanted {('n', *shape)}")
    if walks["positions"].max() >= grid:
        raise ValueError(f"{path}: positions to {walks['positions'].max()} on a grid of {grid}")
    return {"positions": walks["positions"], "actions": walks["actions"]}
