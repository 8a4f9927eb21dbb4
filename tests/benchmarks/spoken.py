"""What is said in a recording and when, to measure delays by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from lhotse.cut import Cut

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.data.alignment import SYMBOLS
from rdsdk.data.manifest import transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.data.word_clips import Aligner

LEAD_SECONDS = 0.5
BLOCK = 320


@dataclass(frozen=True)
class Spoken:
    """A word of the reference, in seconds of what is fed."""

    text: str
    start: float
    end: float


def aligned_words(cuts: Sequence[Cut]) -> Iterator[tuple[Cut, list[Spoken]]]:
    """Recordings and their words: as their manifest aligns them or else as PocketSphinx does. Those
    that it does not find all of, or with words that are not in its dictionary, are left out.

    Raises:
        ConfigError: PocketSphinx is needed and not installed.
    """
    aligner: Aligner | None = None
    for cut in cuts:
        words = [
            Spoken(item.symbol, item.start, item.start + item.duration)
            for supervision in cut.supervisions
            for item in (supervision.alignment or {}).get(SYMBOLS, [])
        ]
        if not words:
            aligner = aligner or Aligner()
            spans = aligner.align(cut.id, load_waveform(cut), transcript(cut) or "") or []
            words = [Spoken(span.word, span.start, span.end) for span in spans]
        if words:
            yield cut, words


def surrounded(
    waveform: np.ndarray, words: Sequence[Spoken], number: int, trail_seconds: float
) -> tuple[np.ndarray, list[Spoken]]:
    """The recording between silences, whole blocks; the one before it falls anywhere in a chunk."""
    lead = np.zeros(round((LEAD_SECONDS + 0.037 * (number % 36)) * SAMPLE_RATE), np.float32)
    length = len(lead) + len(waveform) + round(trail_seconds * SAMPLE_RATE)
    sound = np.concatenate([lead, waveform, np.zeros(-(-length // BLOCK) * BLOCK, np.float32)])
    later = len(lead) / SAMPLE_RATE
    moved = [Spoken(word.text, later + word.start, later + word.end) for word in words]
    return sound[: -(-length // BLOCK) * BLOCK], moved
