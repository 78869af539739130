"""Videos that a tokenizer has turned into codes before, beside their texts: Lumos-1's files.

A `merge-record.json` lists pickles, each a dict of "token", a sequence of text and video as a list
of integers, "label" and "id" (alibaba-damo-academy/Lumos@f7c9cd2, pre_tokenize). Pickles run code
when they are read: these are read by one that knows no names, and so can only hold plain data.
"""

import dataclasses
import functools
import json
import pathlib
import pickle
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from stjax.data.records import OpenedLate, Record

# Numbers of the published vocabulary.
FRAME_START, FRAME_END, LINE_END, VIDEO_START = 8197, 8196, 8803, 9004
CODES, COUNT = 65_536, 64_000
PADDING = -1


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"names {module}.{name}")


@dataclasses.dataclass(frozen=True, eq=False)
class VideoTokens(OpenedLate):
    """Clips as codes, {"codes": (frames, height, width), "text": (text,), "id": ()}, all int32.

    Texts hold all that comes before the video, with `PADDING` in front where they are shorter than
    `text`; of longer ones the end is kept.

    Attributes:
        folder: where `merge-record.json` lies, or that file.
        frames, height, width: codes of a clip, of longer videos the first.
        text: tokens of text.
        training: the first 5/6 of the records, else the rest.
    """

    folder: str
    frames: int
    height: int
    width: int
    text: int
    training: bool

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        path = self._files[index]
        text, codes = read(path)
        wanted = self.frames, self.height, self.width
        if codes.shape[0] < self.frames or codes.shape[1:] != wanted[1:]:
            raise ValueError(f"{path}: token: codes {codes.shape} instead of {wanted}")
        text = text[-self.text :]
        text = np.pad(text, (self.text - len(text), 0), constant_values=PADDING)
        return {"codes": codes[: self.frames], "text": text, "id": np.int32(index)}

    @property
    def spec(self) -> Record:
        """A record of zeros: shapes and dtypes without reading a file."""
        shapes = {"codes": (self.frames, self.height, self.width), "text": (self.text,), "id": ()}
        return {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}

    @functools.cached_property
    def _files(self) -> Sequence[pathlib.Path]:
        record = pathlib.Path(self.folder)
        record = record / "merge-record.json" if record.is_dir() else record
        if not record.is_file():
            raise FileNotFoundError(f"{record}: no such file")
        try:
            names = [entry["file"] for entry in json.loads(record.read_text())]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{record}: no list of records, each with a file ({error})") from None
        end = len(names) * 5 // 6
        names = names[:end] if self.training else names[end:]
        return [_found(name, record) for name in names]


def read(path: pathlib.Path) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "t h w"]]:
    """Text, with all that precedes the video, and the codes of the last video of a sequence.

    Raises:
        ValueError: one line that names the file and the field: not a pickle of plain data, or no
            sequence that ends in a video.
    """
    try:
        with path.open("rb") as file:
            tokens = np.asarray(_PlainUnpickler(file).load()["token"])
        if tokens.ndim != 1 or tokens.dtype.kind != "i":
            raise TypeError(f"{tokens.dtype} {tokens.shape} instead of a list of integers")
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: token: {error}") from None
    starts = np.flatnonzero(tokens == VIDEO_START)
    frames = np.flatnonzero(tokens == FRAME_START)
    if not len(starts) or not (frames := frames[frames > starts[-1]]).size:
        raise ValueError(f"{path}: token: {len(tokens)} tokens without a video")
    # A frame is a start, two sizes, its rows, and an end.
    tokens, text = tokens[frames[0] :], tokens[: starts[-1]]
    length = 1 + int(np.argmax(tokens == FRAME_END))
    width = int(np.argmax(tokens[3:] == LINE_END))
    whole = tokens[: len(frames) * length]
    alike = np.array_equal(np.flatnonzero(whole == FRAME_START), np.arange(0, whole.size, length))
    short = length < 5 or width < 1 or whole.size < len(frames) * length
    if short or not alike or (length - 4) % (width + 1):
        raise ValueError(f"{path}: token: {len(frames)} frames that are not alike")
    rows = whole.reshape(len(frames), length)[:, 3:-1].reshape(len(frames), -1, width + 1)
    codes = rows[..., :-1] - CODES
    if codes.min() < 0 or codes.max() >= COUNT or (rows[..., -1] != LINE_END).any():
        raise ValueError(f"{path}: token: rows {rows.shape} that are not codes and line ends")
    return text.astype(np.int32), codes.astype(np.int32)


def _found(name: str, record: pathlib.Path) -> pathlib.Path:
    """A listed file: the lists name it from the folder that the tokenizing was started in."""
    for folder in record.absolute().parents:
        if (path := folder / name).is_file():
            return path
    raise FileNotFoundError(f"{record}: file: {name} is in none of the folders above it")
