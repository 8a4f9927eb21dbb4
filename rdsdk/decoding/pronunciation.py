"""How words are pronounced: what makes words of a model whose symbols are phones.

The file is a pronouncing lexicon as CMUdict has it: a word and its phones on each line, ``WORD(2)``
for another way to say the same word. Stress marks (``AH0``) are left out where the model's phones
have none. ``rdsdk.data.lexicon`` writes one for a language model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

_VARIANT = re.compile(r"\(\d+\)$")
_COMMENT = (";;;", "# ")
_WAYS_TO_SAY = 8
"""Of a hotword of several words: each of its words may have several."""

Dictionary = Mapping[str, Sequence[tuple[str, ...]]]
"""Each word, as it is written in the file, and the phones of each way to say it."""


def read_dictionary(path: str | Path) -> dict[str, list[tuple[str, ...]]]:
    """A pronouncing lexicon as it stands in a file; ways to say a word in the file's order.

    Raises:
        ConfigError: there is no such file.
        DataError: it is no text, a word has no phones, or there is no word at all.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"there is no pronouncing lexicon {path}; give a text file with a word and its phones "
            "on each line"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from error
    ways: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or line.startswith(_COMMENT):
            continue
        if len(fields) < 2:
            raise DataError(
                f"{path} line {number} has no phones for {fields[0]!r}; a line is a word and its "
                "phones, separated by spaces"
            )
        said = ways.setdefault(_VARIANT.sub("", fields[0]), [])
        if tuple(fields[1:]) not in said:
            said.append(tuple(fields[1:]))
    if not ways:
        raise DataError(f"the pronouncing lexicon {path} holds no words")
    return ways


def in_symbols(ways: Dictionary, vocabulary: Vocabulary) -> dict[str, list[tuple[int, ...]]]:
    """Pronunciations as ids of a model's phones, by the word in capitals.

    What holds a phone that the model has not is left out (lexicons know rare phones, too).

    Raises:
        ConfigError: the model can say hardly any of it: these are not its phones.
    """
    ids = {symbol: number for number, symbol in enumerate(vocabulary.symbols)}
    found: dict[str, list[tuple[int, ...]]] = {}
    total, unknown = 0, set[str]()
    for word, said in ways.items():
        for phones in said:
            total += 1
            spoken = [ids.get(phone, ids.get(phone.rstrip("012"))) for phone in phones]
            known = tuple(number for number in spoken if number is not None)
            if len(known) < len(phones):
                unknown |= {p for p, n in zip(phones, spoken, strict=True) if n is None}
            elif known not in found.setdefault(word.upper(), []):
                found[word.upper()].append(known)
    kept = {word: said for word, said in found.items() if said}
    if sum(map(len, kept.values())) < total / 2:
        raise ConfigError(
            f"the lexicon's phones {sorted(unknown)[:8]} are not the model's symbols "
            f"{list(vocabulary.symbols)}; give a lexicon in these phones"
        )
    return kept


def phrase(
    words: Sequence[str], known: Mapping[str, Sequence[tuple[int, ...]]], end: int
) -> list[tuple[int, ...]]:
    """The ways to say words one after the other, with ``end`` behind each of them.

    Raises:
        ConfigError: a word has no pronunciation.
    """
    for word in words:
        if word.upper() not in known:
            raise ConfigError(
                f"the lexicon does not say how {word!r} is pronounced; add a line for it"
            )
    ways = itertools.product(*(known[word.upper()] for word in words))
    return [
        tuple(symbol for part in way for symbol in (*part, end))
        for way in itertools.islice(ways, _WAYS_TO_SAY)
    ]
