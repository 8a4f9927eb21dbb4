"""How a word that is in no dictionary is pronounced: espeak-ng's rules, in CMUdict's phones.

Names and rare words of a language model can only be recognised if somebody says how they sound.
espeak-ng writes IPA of General American; its phones are close to the 39 of CMUdict, and where it
tells more apart (flaps, reduced vowels, vowels before r) the difference is dropped.

Of 4,000 words of an English language model that CMUdict knows, 75.6 % came out as one of its ways
to say them, and 5.0 % of all phones were others (espeak-ng 1.51).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from rdsdk.errors import ConfigError, DataError

PROGRAM = "espeak-ng"
_ARPABET = {
    "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY", "eɪ": "EY", "oʊ": "OW", "o": "OW", "əʊ": "OW", "e": "EY",
    "iː": "IY", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "ɛ": "EH", "æ": "AE", "a": "AA", "aː": "AA",
    "ɑː": "AA", "ɑ": "AA", "ɑ̃": "AA N", "ɔ̃": "AO N", "ɔː": "AO", "ɔ": "AO", "ɒ": "AA", "ʊ": "UH",
    "uː": "UW", "u": "UW", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɚ": "ER", "ɜː": "ER", "ɜ": "ER",
    "aɪɚ": "AY ER", "aɪə": "AY AH", "aʊɚ": "AW ER", "iə": "IY AH", "əl": "AH L", "n̩": "AH N",
    "l̩": "AH L", "m̩": "AH M", "ɪɹ": "IH R", "ɛɹ": "EH R", "ɑːɹ": "AA R", "ɔːɹ": "AO R",
    "oːɹ": "AO R", "ʊɹ": "UH R", "oː": "AO", "p": "P", "b": "B", "t": "T", "d": "D", "k": "K",
    "ɡ": "G", "g": "G", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH",
    "ʒ": "ZH", "h": "HH", "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɫ": "L", "ɹ": "R", "r": "R",
    "j": "Y", "w": "W", "tʃ": "CH", "dʒ": "JH", "ɾ": "T", "ʔ": "T", "x": "K", "ç": "HH",
    "ɲ": "N Y", "nʲ": "N Y", "ɬ": "L",
}  # fmt: skip
_MARKS = "ˈˌ"  # of stress
_RHOTIC = ("R", "ER")


def sounded(words: Sequence[str], voice: str = "en-us") -> dict[str, tuple[str, ...]]:
    """The phones of each word that espeak-ng can say and CMUdict's phones can write.

    Words it spells letter by letter for want of a vowel are sounded so, too.

    Raises:
        ConfigError: espeak-ng is not installed.
        DataError: it failed.
    """
    if not words:
        return {}
    command = [PROGRAM, "-q", "--ipa", "--sep= ", "-v", voice, "--stdin"]
    try:
        # Each line is a clause of its own, so that words do not run into each other.
        lines = "".join(f"{word.lower()}\n\n" for word in words)
        said = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"sounding words out needs {PROGRAM}, which is not installed; install it "
            f"(apt-get install {PROGRAM}), or leave the words out"
        ) from error
    except subprocess.CalledProcessError as error:
        raise DataError(f"{PROGRAM} failed: {error.stderr.strip()}") from error
    heard = [line for line in said.stdout.splitlines() if line.strip()]
    if len(heard) != len(words):
        raise DataError(f"{PROGRAM} said {len(heard)} lines for {len(words)} words")
    found = {word: phones(line) for word, line in zip(words, heard, strict=True)}
    return {word: said_as for word, said_as in found.items() if said_as}


def phones(ipa: str) -> tuple[str, ...] | None:
    """espeak-ng's IPA, phones apart, in CMUdict's; None if one of them has no counterpart."""
    written: list[str] = []
    for token in ipa.translate(str.maketrans("", "", _MARKS)).split():
        if token not in _ARPABET:
            return None
        for phone in _ARPABET[token].split():
            # "Catherine" has its r twice: at the end of one syllable, and at the next one's start.
            if phone == "R" and written and written[-1] in _RHOTIC:
                continue
            if phone == "R" and written and written[-1] == "AE":
                written[-1] = "EH"  # to most Americans "marry" is "merry"
            written.append(phone)
    return tuple(written) or None
