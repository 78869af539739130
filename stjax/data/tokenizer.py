"""Texts as numbers: a vocabulary of words at hand, and Hugging Face's files of tokenizers."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

IMAGE = "<image>"
_PIECE = re.compile(r"<image>|#+|[a-z']+|\d|[^\w\s]")


class Tokenizer(Protocol):
    """What data and tasks ask of a tokenizer.

    Attributes:
        size: number of tokens there are.
        pad, image, end: tokens of padding, of where an image goes, of a text's end.
    """

    size: int
    pad: int
    image: int
    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text up to its end."""


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """A token a word, a digit or a sign; small letters; white space is not kept.

    Attributes:
        words: all that texts may hold.
    """

    words: tuple[str, ...]

    pad, image, end = 0, 1, 2

    @classmethod
    def of(cls, texts: Iterable[str]) -> "WordTokenizer":
        """One that can read these texts, and any number."""
        pieces = {piece for text in texts for piece in _PIECE.findall(text.lower())}
        return cls(tuple(sorted((pieces | set("0123456789.")) - {IMAGE})))

    @property
    def size(self) -> int:
        return 3 + len(self.words)

    def encode(self, text: str) -> list[int]:
        """
        Raises:
            ValueError: a word that is not known.
        """
        try:
            return [self._numbers[piece] for piece in _PIECE.findall(text.lower())]
        except KeyError as error:
            raise ValueError(f"text: {error} is none of {len(self.words)} known words") from None

    def decode(self, tokens: Sequence[int]) -> str:
        tokens = list(tokens)
        tokens = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
        text = " ".join(self.words[token - 3] for token in tokens if token > 2)
        return re.sub(r"(?<=[\d.]) (?=[\d.])", "", text)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {IMAGE: self.image} | {word: 3 + k for k, word in enumerate(self.words)}


@dataclasses.dataclass(frozen=True)
class FileTokenizer:
    """What a `tokenizer.json` of Hugging Face says, with tokens for images and padding added.

    The package tokenizers is the extra `tokenizers`.

    Attributes:
        path: of the file.
        ends: the token that ends a text, such as "<|eot_id|>".
    """

    path: pathlib.Path
    ends: str

    def __post_init__(self):
        if self._tokens.token_to_id(self.ends) is None:
            raise ValueError(f"{self.path}: no token {self.ends!r}")

    @property
    def size(self) -> int:
        return self._tokens.get_vocab_size()

    @property
    def pad(self) -> int:
        return self._tokens.token_to_id("<PAD>")

    @property
    def image(self) -> int:
        return self._tokens.token_to_id(IMAGE)

    @property
    def end(self) -> int:
        return self._tokens.token_to_id(self.ends)

    def encode(self, text: str) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        tokens = list(tokens)
        tokens = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
        return self._tokens.decode(tokens)

    @functools.cached_property
    def _tokens(self):
        try:
            import tokenizers
        except ImportError:
            raise ValueError(
                "a tokenizer.json is read by tokenizers, which is not installed: "
                "pip install 'stjax[tokenizers]'"
            ) from None
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such tokenizer")
        try:
            found = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as error:  # of no narrower type
            raise ValueError(f"{self.path}: not a tokenizer.json ({error})") from None
        found.add_special_tokens(["### Image:", IMAGE, "<PAD>"])
        return found

    def __getstate__(self):
        return {"path": self.path, "ends": self.ends}


def load(name: str, texts: Iterable[str], ends: str = "<|eot_id|>") -> Tokenizer:
    """A tokenizer by name.

    Args:
        name: "words": a `WordTokenizer` of `texts`; "file:<path>": a `tokenizer.json`.
        ends: the token of the file that ends a text.

    Raises:
        ValueError, FileNotFoundError: another name, or a file that is not there or is none.
    """
    kind, _, path = name.partition(":")
    if name == "words":
        return WordTokenizer.of(texts)
    if kind == "file" and path:
        return FileTokenizer(pathlib.Path(path), ends)
    raise ValueError(f"data.tokenizer: {name!r}; there are words, file:<tokenizer.json>")
