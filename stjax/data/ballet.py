"""Episodes of Room Ballet: seeds of generated ones, and the authors' files.

    splits = ballet.short_stay("files:dance_36", walks="dance_random_actions/25_rooms", rooms=25)
    splits.train[0]["frames"]  # (25 * 16, 45, 45, 3) uint8
"""

import dataclasses
import pathlib
import zipfile
import zlib

import numpy as np

from stjax.data.arrays import open_array
from stjax.data.records import Record, Source


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Records of a "seed" (2,) uint32 each, by which a world makes an episode on the device.

    Attributes:
        count: how many.
        seed, split: of the seeds.
    """

    count: int
    seed: int = 0
    split: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Record:
        state = np.random.SeedSequence((self.seed, self.split, index)).generate_state(2)
        return {"seed": state, "turn": np.int32(index)}


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Folders of the authors' `.npz` episodes; "image" holds dance after dance of `dance` frames.

    Attributes:
        episodes: one file each.
        names: of the entries that become "motion", (dancers,), and, where there are such, "places"
            and "asked".
        walks: `agent_poses_times_*.npy` (steps, 2), room and step, as many as episodes; else
            "places" are an entry's.
        dancers: so many are read, from the first; 0: all.
        seed: of the rooms that are asked about where the files name none: others in each epoch.
    """

    episodes: tuple[pathlib.Path, ...]
    names: dict[str, str]
    walks: tuple[pathlib.Path, ...] = ()
    dancers: int = 0
    dance: int = 16
    seed: int = 0

    def __post_init__(self):
        if self.walks and len(self.walks) < len(self.episodes):
            raise ValueError(
                f"{self.walks[0].parent}: {len(self.walks)} walks for {len(self.episodes)} episodes"
            )

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Record:
        return self.at(index, index)

    def at(self, index: int, place: int) -> Record:
        path = self.episodes[index]
        stored = _read(path, ("image", *self.names.values()))
        image, motion = stored["image"], stored[self.names["motion"]]
        dancers = self.dancers or len(motion)
        if image.ndim != 4 or image.dtype != np.uint8 or image.shape[-1] != 3:
            raise ValueError(f"{path}: image {image.dtype} {image.shape}, not uint8 (f, h, w, 3)")
        if len(image) != len(motion) * self.dance or dancers > len(motion):
            raise ValueError(
                f"{path}: image of {len(image)} frames, {self.names['motion']} of {len(motion)}; "
                f"wanted {self.dance} frames a dancer, and {dancers} dancers"
            )
        record = {name: stored[entry].astype(np.int32) for name, entry in self.names.items()}
        record |= {"frames": image[: dancers * self.dance], "motion": record["motion"][:dancers]}
        if self.walks:
            record["places"] = self._walk(self.walks[index], dancers)
        if "asked" not in record:
            rng = np.random.default_rng((self.seed, place))
            record["asked"] = rng.integers(0, dancers, 1, np.int32)
        return {**record, "turn": np.int32(place)}

    def _walk(self, path: pathlib.Path, rooms: int) -> np.ndarray:
        walk = np.array(open_array(path))
        steps = np.arange(len(walk))
        if walk.ndim != 2 or walk.shape[1] != 2 or not np.array_equal(walk[:, 1], steps):
            raise ValueError(f"{path}: {walk.shape}, wanted (steps, 2), of room and step from 0")
        if walk[:, 0].min() < 0 or walk[:, 0].max() >= rooms:
            raise ValueError(f"{path}: rooms to {walk[:, 0].max()}, and there are {rooms}")
        return walk[:, 0].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Splits:
    """Episodes to train on, and held-out ones to test on."""

    train: Source
    test: Source


def short_stay(
    source: str = "generated", *, walks: str = "", rooms: int = 25, dance: int = 16,
    count_train: int = 10_000_000, count_test: int = 1_000, seed: int = 0,
) -> Splits:
    """Episodes of walks through rooms.

    Args:
        source: "generated", or "files:<folder>", of train/*.npz and eval/*.npz.
        walks: the folder of their walks, of train/ and eval/ likewise.
        rooms: dancers of a file that are used.
        dance: frames of each.
        count_train, count_test, seed: of generated ones; test episodes are others.

    Raises:
        ValueError, FileNotFoundError: one line that names the thing that is wrong or missing.
    """
    names = {"motion": "motions"}
    found = lambda split: Files(
        _below(_folder(source) / split, "*.npz"), names,
        _below(pathlib.Path(walks) / split, "agent_poses_times_*.npy"), rooms, dance, seed,
    )
    return _splits(source, found, count_train, count_test, seed)


def multi_task(
    source: str = "generated", *, dance: int = 16, count_train: int = 10_000_000,
    count_test: int = 1_000, seed: int = 0,
) -> Splits:
    """Tours past 18 dancers; arguments and errors as those of `short_stay`."""
    names = {"motion": "motion", "places": "space", "asked": "task_label"}
    found = lambda split: Files(_below(_folder(source) / split, "*.npz"), names, dance=dance)
    return _splits(source, found, count_train, count_test, seed)


def _splits(source, found, count_train, count_test, seed):
    if source == "generated":
        return Splits(Seeds(count_train, seed, 0), Seeds(count_test, seed, 1))
    return Splits(found("train"), found("eval"))


def _folder(source: str) -> pathlib.Path:
    kind, _, folder = source.partition(":")
    if kind != "files" or not folder:
        raise ValueError(f"data.source: {source!r} is neither generated nor files:<folder>")
    return pathlib.Path(folder)


def _below(folder: pathlib.Path, pattern: str) -> tuple[pathlib.Path, ...]:
    files = tuple(sorted(folder.glob(pattern)))
    if not files:
        raise FileNotFoundError(f"{folder}: no files {pattern}")
    return files


def _read(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as entries:
            if missing := [name for name in names if name not in entries.files]:
                raise ValueError(f"{path}: no entry {missing[0]!r}; there are {entries.files}")
            return {name: entries[name] for name in names}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None
