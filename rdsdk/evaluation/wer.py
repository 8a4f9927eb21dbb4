"""Word and character error rates with what they are made of, and how sure they are.

Alignments are jiwer's. A reference without words has no rate of its own, yet what a recogniser
writes there counts: its words are insertions, and such clips are counted as false.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from rdsdk.errors import DataError


@dataclass(frozen=True)
class ErrorCounts:
    """How one utterance's units (words or characters), or a sum of such, were recognised."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference(self) -> int:
        """Units of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; without any reference 0 if right, infinite if not."""
        if self.reference:
            return self.errors / self.reference
        return math.inf if self.errors else 0.0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class ErrorRates:
    """The errors of each utterance; sets are combined with ``+``, as rates cannot be averaged."""

    word_counts: tuple[ErrorCounts, ...]
    character_counts: tuple[ErrorCounts, ...]

    @property
    def utterances(self) -> int:
        return len(self.word_counts)

    @property
    def words(self) -> ErrorCounts:
        """Word errors of all utterances together."""
        return sum(self.word_counts, ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        """Character errors of all utterances together; a space is a character."""
        return sum(self.character_counts, ErrorCounts())

    @property
    def wer(self) -> float:
        """Word error rate, insertions on empty references included; see ErrorCounts.rate."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate, insertions on empty references included."""
        return self.characters.rate

    @property
    def empty_references(self) -> int:
        """Utterances whose reference holds no words."""
        return sum(counts.reference == 0 for counts in self.word_counts)

    @property
    def false_utterances(self) -> int:
        """Utterances without words where words were recognised."""
        return sum(c.reference == 0 and c.insertions > 0 for c in self.word_counts)

    @property
    def false_words(self) -> int:
        """Words recognised in utterances without words."""
        return sum(c.insertions for c in self.word_counts if c.reference == 0)

    @property
    def false_word_rate(self) -> float:
        """The share of the empty references where words were recognised; 0 if none is empty."""
        return self.false_utterances / self.empty_references if self.empty_references else 0.0

    def __add__(self, other: ErrorRates) -> ErrorRates:
        return ErrorRates(
            self.word_counts + other.word_counts, self.character_counts + other.character_counts
        )

    def wer_interval(
        self, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap interval of the WER over utterances (percentiles), the same for a seed."""
        return bootstrap_interval(self.word_counts, confidence, resamples, seed)

    def cer_interval(
        self, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
    ) -> tuple[float, float]:
        """Bootstrap interval of the CER over utterances (percentiles), the same for a seed."""
        return bootstrap_interval(self.character_counts, confidence, resamples, seed)


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRates:
    """Compare hypotheses with references, one to one, after white space is made single.

    Case and punctuation count: bring both to one form before.

    Raises:
        DataError: the numbers of references and hypotheses differ.
    """
    if len(references) != len(hypotheses):
        raise DataError(
            f"{len(references)} references but {len(hypotheses)} hypotheses; they go in pairs"
        )
    pairs = [
        (" ".join(reference.split()), " ".join(hypothesis.split()))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return ErrorRates(
        tuple(_word_errors(*pair) for pair in pairs),
        tuple(_character_errors(*pair) for pair in pairs),
    )


def normalise(text: str) -> str:
    """Upper-case words of letters, digits and apostrophes, as LibriSpeech's references are.

    An apostrophe at the edge of a word may as well be a quotation mark, and goes.
    """
    plain = unicodedata.normalize("NFKC", text).upper().replace("\u2019", "'")
    kept = "".join(c if _in_words(c) else " " for c in plain)
    return " ".join(word for part in kept.split() if (word := part.strip("'")))


def _in_words(character: str) -> bool:
    # Marks are parts of letters, and in many scripts the vowels.
    return character.isalnum() or character == "'" or unicodedata.category(character)[0] == "M"


def finite(rate: float) -> float | None:
    """A rate as a JSON value: null where there was nothing to count."""
    return rate if math.isfinite(rate) else None


def bootstrap_interval(
    counts: Sequence[ErrorCounts], confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """The interval of the rate when utterances are drawn again with replacement.

    Resamples without any reference unit are left out; (nan, nan) if none is left.
    """
    errors = np.array([count.errors for count in counts], dtype=np.int64)
    reference = np.array([count.reference for count in counts], dtype=np.int64)
    if not reference.sum():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):  # one at a time: all at once would be resamples x utterances
        drawn = rng.integers(len(counts), size=len(counts))
        if total := reference[drawn].sum():
            rates.append(errors[drawn].sum() / total)
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


def _word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    if not reference:  # jiwer refuses an empty reference
        return ErrorCounts(insertions=len(hypothesis.split()))
    found = jiwer.process_words(reference, hypothesis)
    return ErrorCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def _character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    if not reference:
        return ErrorCounts(insertions=len(hypothesis))
    found = jiwer.process_characters(reference, hypothesis)
    return ErrorCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def combine(rates: Iterable[ErrorRates]) -> ErrorRates:
    """All utterances of several sets as one set."""
    return sum(rates, ErrorRates((), ()))
