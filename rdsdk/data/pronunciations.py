"""Words -> phones by a pronouncing dictionary, and utterances whose texts are phones.

Of several pronunciations the first counts, as in SUPERB (arXiv 2105.01051).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.supervision import SupervisionSegment

from rdsdk.data.alignment import SYMBOLS, is_aligned
from rdsdk.data.manifest import transcript
from rdsdk.decoding.pronunciation import read_dictionary
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

_WORDS_NAMED = 5


@dataclass(frozen=True)
class Pronunciations:
    """The first pronunciation of each word (upper case), and the vocabulary of all their phones."""

    phones: Mapping[str, tuple[str, ...]]
    vocabulary: Vocabulary

    def unknown(self, cut: Cut) -> list[str]:
        """The words of a cut that have no pronunciation; none if the cut says its phones itself.

        Raises:
            DataError: the cut has no transcript.
        """
        text = transcript(cut)
        if text is None:
            raise DataError(
                f"{cut.id} has no transcript, so its phones are not known; leave unlabelled "
                "sources out (an empty text is a recording without words)"
            )
        if self._says_phones(cut):
            return []
        return [word for word in text.split() if word.upper() not in self.phones]

    def spelt(self, cut: Cut) -> Cut:
        """The cut with phones, separated by spaces, as its text.

        An aligned cut whose alignment holds nothing but phones of the vocabulary (such as those of
        ``rdsdk prepare phones``) keeps these. All words must be known.
        """
        if self._says_phones(cut):
            return cut.map_supervisions(
                lambda part: replace(
                    part, text=" ".join(item.symbol for item in (part.alignment or {})[SYMBOLS])
                )
            )
        return cut.map_supervisions(self._spelt)

    def _spelt(self, part: SupervisionSegment) -> SupervisionSegment:
        words = (part.text or "").upper().split()
        return replace(part, text=" ".join(p for word in words for p in self.phones[word]))

    def _says_phones(self, cut: Cut) -> bool:
        known = set(self.vocabulary.symbols)
        return is_aligned(cut) and all(
            item.symbol in known
            for part in cut.supervisions
            for item in (part.alignment or {})[SYMBOLS]
        )


def read_pronunciations(files: Sequence[str | Path] = ()) -> Pronunciations:
    """Dictionaries, the first to name a word deciding; without any, that of PocketSphinx's English
    model: the CMU dictionary, 39 phones without stress.

    Raises:
        ConfigError: a file is missing, or PocketSphinx is not installed.
        DataError: a line is no word with its phones.
    """
    phones: dict[str, tuple[str, ...]] = {}
    for file in files or [pocketsphinx_dictionary()]:
        for word, ways in read_dictionary(file).items():
            phones.setdefault(word.upper(), ways[0])
    return Pronunciations(phones, Vocabulary.words(sorted({p for s in phones.values() for p in s})))


def pronounced(cuts: CutSet, pronunciations: Pronunciations) -> tuple[CutSet, int]:
    """The cuts with phones as their texts, and how many were left out for words without any.

    A warning names some of these words. Of a lazy source they are left out silently and not
    counted, as it is not read here.

    Raises:
        DataError: a cut has no transcript, or nothing is left.
    """
    if cuts.is_lazy:
        return cuts.filter(lambda cut: not pronunciations.unknown(cut)).map(pronunciations.spelt), 0
    kept: list[Cut] = []
    unknown: list[str] = []
    left_out = 0
    for cut in cuts:
        missing = pronunciations.unknown(cut)
        if missing:
            left_out += 1
            unknown += missing
        else:
            kept.append(pronunciations.spelt(cut))
    words = sorted(set(unknown))
    some = ", ".join(words[:_WORDS_NAMED]) + (", ..." if len(words) > _WORDS_NAMED else "")
    if not kept:
        raise DataError(
            f"none of {left_out} utterances can be spelt in phones; {len(words)} words have no "
            f"pronunciation: {some}; give a dictionary that has them (pronunciations)"
        )
    if left_out:
        warnings.warn(
            f"{left_out} of {left_out + len(kept)} utterances left out, for {len(words)} words "
            f"without a pronunciation: {some}",
            stacklevel=2,
        )
    return CutSet.from_cuts(kept), left_out


def pocketsphinx_dictionary() -> Path:
    """The dictionary of PocketSphinx's English model: the CMU dictionary without stress.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """
    try:
        from pocketsphinx import get_model_path
    except ImportError as error:
        raise ConfigError(
            "phones of words come from PocketSphinx's dictionary, and it is not installed; run "
            "`pip install pocketsphinx`, or give a dictionary (pronunciations)"
        ) from error
    return Path(get_model_path("en-us/cmudict-en-us.dict"))
