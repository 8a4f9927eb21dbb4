"""Make the pronouncing lexicon that goes with a language model: ``rdsdk
prepare lexicon english.lm -o english.dict``.

The words are those of the language model, their phones those of PocketSphinx's dictionary (CMUdict
without stress), which also aligned what models of phones are trained on (``rdsdk.data.phones``).
A word that the dictionary does not know cannot be recognised; their number is printed.
``--add FILE`` says how some of them, and hotwords, are pronounced, ``--sound-out`` guesses the
rest by espeak-ng's rules (``rdsdk.data.letter_to_sound``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rdsdk.data.letter_to_sound import sounded
from rdsdk.data.pronunciations import pocketsphinx_dictionary
from rdsdk.decoding.language_model import words_of
from rdsdk.decoding.pronunciation import read_dictionary
from rdsdk.errors import RdsdkError
from rdsdk.outputs import require_file


def write_lexicon(
    lm: Path, output: Path, more: Sequence[Path] = (), sound_out: bool = False
) -> tuple[int, int]:
    """Write the pronunciations of a language model's words.

    Args:
        lm: KenLM's binary or ARPA.
        output: of lines ``WORD PH PH ...``, a line for each way to say a word.
        more: pronouncing lexicons that come before the dictionary; their words are written whether
            the language model has them or not, so that they can be hotwords.
        sound_out: guess how words are pronounced that are in none.

    Returns:
        The language model's words with a pronunciation, and all of them.

    Raises:
        ConfigError: PocketSphinx or espeak-ng is not installed, or a lexicon is missing.
        DataError: a lexicon is damaged.
        ModelError: the language model cannot be read.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    require_file(output)
    ways: dict[str, list[tuple[str, ...]]] = {}
    added: dict[str, None] = {}
    for path in (*more, pocketsphinx_dictionary()):
        read: dict[str, list[tuple[str, ...]]] = {}
        for word, said in read_dictionary(path).items():
            read.setdefault(word.upper(), []).extend(said)
            if path in more:
                added[word] = None
        ways = {**read, **ways}
    words = words_of(lm)
    if sound_out:
        rest = [word for word in words if word.upper() not in ways and _is_a_word(word)]
        ways |= {word.upper(): [said] for word, said in sounded(rest).items()}
    known = [word for word in words if word.upper() in ways]
    modelled = {word.upper() for word in words}
    others = [word for word in added if word.upper() not in modelled]
    with output.open("w", encoding="utf-8") as file:
        for word in (*known, *others):
            for number, phones in enumerate(dict.fromkeys(ways[word.upper()]), 1):
                variant = f"({number})" if number > 1 else ""
                file.write(f"{word}{variant} {' '.join(phones)}\n")
    return len(known), len(words)


def _is_a_word(text: str) -> bool:
    """Not a symbol of the language model, as ``<unk>``."""
    return text.replace("'", "").isalpha()


def main(argv: Sequence[str] | None = None) -> int:
    """Write a lexicon and say how much of the model it knows; 2 when something is wrong."""
    parser = argparse.ArgumentParser(prog="rdsdk prepare lexicon", description=__doc__)
    parser.add_argument("lm", type=Path, metavar="LM", help="KenLM's binary or ARPA")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], metavar="FILE", help="more pronunciations"
    )
    parser.add_argument(
        "--sound-out", action="store_true", help="guess what no dictionary has, by espeak-ng"
    )
    arguments = parser.parse_args(argv)
    try:
        known, total = write_lexicon(
            arguments.lm, arguments.output, arguments.add, arguments.sound_out
        )
    except RdsdkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{known} of {total} words of {arguments.lm} have a pronunciation: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
