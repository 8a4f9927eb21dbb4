"""Symbols <-> ids of a CTC output, with its blank and its word boundary.

Two kinds are in use: characters with ``|`` between words, as in wav2vec 2.0 (arXiv 2006.11477,
section 4.2), and whole words, where every symbol is a word and no boundary is needed.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeGuard

from rdsdk.errors import ConfigError

BLANK = "<blank>"
BOUNDARY = "|"
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
PHONES = frozenset(phone for kind in (_VOWELS, _CONSONANTS) for phone in kind.split())
"""Those of the CMU dictionary, without stress."""


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC head, in the order of its outputs.

    ``word_boundary`` is the symbol between two words; ``None`` means that each symbol is a word.
    ``lexicon`` closes the vocabulary: a decoder then gives no word outside it.

    Raises:
        ConfigError: symbols repeat, or the blank or the boundary is not among them.
    """

    symbols: tuple[str, ...]
    blank: int = 0
    word_boundary: str | None = BOUNDARY
    lexicon: tuple[str, ...] | None = None
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if len(ids) != len(self.symbols):
            repeated = sorted({s for s in self.symbols if self.symbols.count(s) > 1})
            raise ConfigError(f"vocabulary symbols repeat: {repeated}; each must occur once")
        if not 0 <= self.blank < len(self.symbols):
            raise ConfigError(
                f"blank id {self.blank} is outside the {len(self.symbols)} vocabulary symbols"
            )
        if self.word_boundary is not None and self.word_boundary not in ids:
            raise ConfigError(
                f"word boundary {self.word_boundary!r} is not among the vocabulary symbols; "
                "add it, or use word_boundary=None when every symbol is a word"
            )
        object.__setattr__(self, "_ids", ids)
        for word in self.lexicon or ():
            self.encode(word)

    @property
    def is_of_phones(self) -> bool:
        """The symbols are phones: no text until a search makes words of them."""
        others = {symbol for index, symbol in enumerate(self.symbols) if index != self.blank}
        return bool(others) and others <= PHONES

    @classmethod
    def characters(cls, lexicon: Iterable[str] | None = None) -> Vocabulary:
        """Blank, boundary, apostrophe and A-Z: LibriSpeech's alphabet, 29 symbols."""
        symbols = (BLANK, BOUNDARY, "'", *string.ascii_uppercase)
        return cls(symbols, lexicon=None if lexicon is None else tuple(lexicon))

    @classmethod
    def words(cls, words: Iterable[str]) -> Vocabulary:
        """One symbol a word, blank first."""
        return cls((BLANK, *words), word_boundary=None)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def boundary_id(self) -> int | None:
        """The id of the word boundary, or None when every symbol is a word."""
        return None if self.word_boundary is None else self._ids[self.word_boundary]

    def encode(self, text: str) -> list[int]:
        """Text to ids, without blanks; words are separated by white space.

        Raises:
            ConfigError: the text holds something the vocabulary has no symbol for.
        """
        words = text.split()
        if self.word_boundary is None:
            pieces: Sequence[str] = words
        else:
            # Joined piece by piece because a boundary may be longer than one character.
            pieces = [
                p for i, w in enumerate(words) for p in ([self.word_boundary] * (i > 0)) + list(w)
            ]
        unknown = sorted({piece for piece in pieces if piece not in self._ids})
        if unknown:
            raise ConfigError(
                f"no symbol for {unknown} of {text!r}; the vocabulary has {list(self.symbols)}"
            )
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """Collapsed ids (no blanks, no repeats) to text with single spaces between words."""
        pieces = [self.symbols[index] for index in ids if index != self.blank]
        if self.word_boundary is None:
            return " ".join(pieces)
        return " ".join("".join(" " if p == self.word_boundary else p for p in pieces).split())

    def greedy(self, ids: Iterable[int]) -> str:
        """The likeliest symbol of each frame to text: repeats are merged, blanks left out."""
        return self.decode(index for index, _ in groupby(ids))

    def to_dict(self) -> dict[str, object]:
        """A JSON value that ``from_dict`` reads back."""
        return {
            "symbols": list(self.symbols),
            "blank": self.blank,
            "word_boundary": self.word_boundary,
            "lexicon": None if self.lexicon is None else list(self.lexicon),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> Vocabulary:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: a field is missing, unknown or of the wrong type.
        """
        expected = {"symbols", "blank", "word_boundary", "lexicon"}
        if not isinstance(value, Mapping) or not {"symbols", "blank"} <= set(value) <= expected:
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ConfigError(f"a vocabulary has the fields {sorted(expected)}, got {got}")
        symbols, blank = value["symbols"], value["blank"]
        boundary, lexicon = value.get("word_boundary"), value.get("lexicon")
        if (
            not _strings(symbols)
            or not isinstance(blank, int)
            or not (boundary is None or isinstance(boundary, str))
            or not (lexicon is None or _strings(lexicon))
        ):
            raise ConfigError(
                "a vocabulary needs symbols: list of text, blank: integer, word_boundary: text or "
                f"null, lexicon: list of text or null; got {dict(value)}"
            )
        return cls(tuple(symbols), blank, boundary, None if lexicon is None else tuple(lexicon))


def _strings(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
