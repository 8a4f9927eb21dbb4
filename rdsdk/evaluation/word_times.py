"""How far the times of recognised words are from where a reference has them.

Only words that were recognised can be judged: those that an alignment of both texts (jiwer's)
pairs with the same word. A difference is the recogniser's time less the reference's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from rdsdk.data.word_spans import TimedWord
from rdsdk.decoding.segment import Word

NEAR_SECONDS = 0.05
"""A time that is off by so much at most is counted as near."""
SPREAD = ("mean_ms", "median_ms", "absolute_median_ms", "absolute_p95_ms")
"""What ``spread`` gives in milliseconds."""


@dataclass(frozen=True)
class WordTimes:
    """Differences in seconds, one of each pair of words; sets are combined with ``+``."""

    starts: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    def __add__(self, other: WordTimes) -> WordTimes:
        return WordTimes(self.starts + other.starts, self.ends + other.ends)

    def to_dict(self) -> dict[str, object]:
        """A JSON value: how many words, and of their starts and ends the mean and the median
        difference, how large it is in the median and for 95 of 100, and the share that is near."""
        return {
            "words": len(self.starts),
            "near_seconds": NEAR_SECONDS,
            "start": spread(self.starts),
            "end": spread(self.ends),
        }


def spread(differences: Sequence[float]) -> dict[str, float] | None:
    """What ``WordTimes.to_dict`` says of starts or of ends, in milliseconds and as a share; None
    of nothing."""
    if not differences:
        return None
    values = np.array(differences)
    sizes = np.abs(values)
    return {
        "mean_ms": round(1000 * float(values.mean()), 1),
        "median_ms": round(1000 * float(np.median(values)), 1),
        "absolute_median_ms": round(1000 * float(np.median(sizes)), 1),
        "absolute_p95_ms": round(1000 * float(np.quantile(sizes, 0.95)), 1),
        "near": round(float((sizes <= NEAR_SECONDS + 1e-9).mean()), 4),
    }


def word_times(reference: Sequence[TimedWord], words: Sequence[Word]) -> WordTimes:
    """Compare the times of one utterance's words.

    Args:
        reference: its words and when they are said, written as ``words`` are; case is left aside.
        words: what was recognised.
    """
    # A word with a space in it would be two to the alignment.
    said = " ".join("_".join(word.upper().split()) for word, _, _ in reference)
    heard = " ".join("_".join(word.text.upper().split()) for word in words)
    if not said or not heard:
        return WordTimes()
    found = jiwer.process_words(said, heard).alignments[0]
    pairs = [
        (reference[chunk.ref_start_idx + at], words[chunk.hyp_start_idx + at])
        for chunk in found
        if chunk.type == "equal"
        for at in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    return WordTimes(
        tuple(word.start - start for (_, start, _), word in pairs),
        tuple(word.end - end for (_, _, end), word in pairs),
    )
