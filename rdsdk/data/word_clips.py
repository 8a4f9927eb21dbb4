"""Single words out of read sentences: where each lies, and which digit words are to be trusted.

The aligner is PocketSphinx with the English model of its package: it is told the transcript and
finds the times. A second pass hears each digit word alone, with words that sound like digits as
alternatives, and only those it agrees with are kept: reading speech swallows many a "one".
"""

from __future__ import annotations

import math
import multiprocessing
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from rdsdk.data import pocketsphinx
from rdsdk.errors import DataError

SAMPLE_RATE = 16_000
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
# What alone cannot be told from a digit, so it is neither a digit nor a counter-example.
HOMOPHONES = frozenset({"FOR", "FORE", "TO", "TOO", "WON", "ATE", "OH", "O", "NAUGHT", "NIGH"})
# Alternatives of the second pass; near enough to a digit to catch a slipped or swallowed one.
_RIVALS = (
    "when was well on a an and the of in do you who there her far fine nice mine ticks seek "
    "heaven even second it hey great day"
)
RIVALS = tuple(_RIVALS.split())


@dataclass(frozen=True)
class WordSpan:
    """One word of one utterance; ``start`` and ``end`` in seconds, ``score`` a log likelihood a
    frame (the nearer to zero the better the fit)."""

    utterance: str
    word: str
    start: float
    end: float
    score: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def read_mono(path: Path) -> np.ndarray:
    """A recording as (S,) float32 at 16 kHz.

    Raises:
        DataError: the file is missing or is not sound that can be read.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read {path} as sound: {error}") from error
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="VHQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


Pronounced = Mapping[str, Sequence[str]]
"""The phones of words."""


@dataclass(frozen=True)
class Words:
    """The words of one utterance, and the numbers (in order) of the digit words to be trusted."""

    utterance: str
    spans: tuple[WordSpan, ...]
    trusted: tuple[int, ...]


class Aligner:
    """Finds the words of a known transcript. One for each process: it is not thread-safe.

    Args:
        more: the phones of words that PocketSphinx's dictionary does not have.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """

    def __init__(self, more: Pronounced | None = None) -> None:
        self._decoder = pocketsphinx.new_decoder(lm=None)
        for word, phones in (more or {}).items():
            if self._decoder.lookup_word(word.lower()) is None:
                self._decoder.add_word(word.lower(), " ".join(phones), True)
        words = " | ".join([*(digit.lower() for digit in DIGITS), *RIVALS])
        self._one_word = f"#JSGF V1.0; grammar one; public <word> = {words};"

    def align(self, utterance: str, waveform: np.ndarray, text: str) -> list[WordSpan] | None:
        """The words of ``text`` in ``waveform`` (S,), or None when a word is unknown to the
        dictionary or the transcript does not fit the sound."""
        words = text.lower().split()
        if not words or any(self._decoder.lookup_word(w) is None for w in words):
            return None
        self._decoder.set_align_text(" ".join(words))
        if not self._decode(waveform):
            return None
        spans = []
        for segment in self._decoder.seg():
            if segment.word[0] in "<[":
                continue
            start, end = segment.start_frame, segment.end_frame + 1
            spans.append(
                WordSpan(
                    utterance,
                    pocketsphinx.plain_word(segment.word),
                    start / pocketsphinx.FRAMES_PER_SECOND,
                    end / pocketsphinx.FRAMES_PER_SECOND,
                    math.log(max(segment.ascore, 1e-300)) / (end - start),
                )
            )
        return spans if [s.word for s in spans] == [w.upper() for w in words] else None

    def hears(self, waveform: np.ndarray) -> str:
        """The digit or rival word that ``waveform`` (S,), one word alone, sounds most like."""
        self._decoder.add_jsgf_string("one", self._one_word)
        self._decoder.activate_search("one")
        # The decoder expects some quiet around a word, and its level estimate needs a moment.
        quiet = np.zeros(SAMPLE_RATE // 5, dtype=np.float32)
        if not self._decode(np.concatenate([quiet, waveform, quiet])):
            return ""
        return pocketsphinx.plain_word(self._decoder.hyp().hypstr)

    def spelt(self, word: str) -> list[str]:
        """The phones of a word by the dictionary's first entry for it; none if it has none."""
        return (self._decoder.lookup_word(word.lower()) or "").split()

    def _decode(self, waveform: np.ndarray) -> bool:
        samples = (np.clip(waveform, -1.0, 32767 / 32768) * 32768).astype("<i2")
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        return self._decoder.hyp() is not None


def cut(waveform: np.ndarray, span: WordSpan, margin_seconds: float = 0.02) -> np.ndarray:
    """The samples of one word with a margin each side, (S,)."""
    first = max(0, round((span.start - margin_seconds) * SAMPLE_RATE))
    last = min(len(waveform), round((span.end + margin_seconds) * SAMPLE_RATE))
    return waveform[first:last]


def trusted_digits(
    aligner: Aligner, waveform: np.ndarray, spans: Sequence[WordSpan]
) -> tuple[int, ...]:
    """Which of ``spans`` are digit words of the length of a digit that, heard alone, are still
    that digit."""
    return tuple(
        number
        for number, span in enumerate(spans)
        if span.word in DIGITS
        and 0.18 <= span.seconds <= 0.9
        and aligner.hears(cut(waveform, span)) == span.word
    )


def pronunciations(words: Iterable[str], more: Pronounced | None = None) -> dict[str, list[str]]:
    """The phones of each word, by the dictionary or by ``more``.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """
    aligner = Aligner(more)
    return {word: aligner.spelt(word) for word in words}


_aligner: Aligner | None = None  # one a process: it takes half a second and 60 MB to load


def _prepare(more: Pronounced | None) -> None:
    global _aligner
    _aligner = Aligner(more)


def _words_of(task: tuple[str, Path, str]) -> Words | None:
    assert _aligner is not None
    utterance, path, text = task
    waveform = read_mono(path)
    spans = _aligner.align(utterance, waveform, text)
    if spans is None:
        return None
    return Words(utterance, tuple(spans), trusted_digits(_aligner, waveform, spans))


def find_words(
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    workers: int,
    more: Pronounced | None = None,
) -> Iterator[Words | None]:
    """The words of each manifest row, in order; None where the transcript does not align.

    Args:
        more: the phones of words that PocketSphinx's dictionary does not have.

    Raises:
        ConfigError: PocketSphinx is not installed.
        DataError: a recording cannot be read.
    """
    tasks = [(str(row["id"]), folder / str(row["audio"]), str(row["text"])) for row in rows]
    if workers <= 1 or len(tasks) < 2:
        _prepare(more)
        yield from map(_words_of, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _prepare, (more,)) as pool:
        yield from pool.imap(_words_of, tasks, chunksize=16)


def free_of_digits(words: Sequence[str]) -> bool:
    """True when no word of ``words`` is a digit, whole or with an ending ("ONE'S", "TWOS")."""
    return not any(re.fullmatch(rf"({'|'.join(DIGITS)})('S|S|ES)?", word) for word in words)
