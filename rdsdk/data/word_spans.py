"""When each word of a recording is said: what ``rdsdk prepare phones`` keeps beside its corpora.

A file of it holds a line of JSON for each utterance: ``utterance``, its id, and ``spans``, a list
of [word, start, end, ...] with seconds. Cuts of lhotse may have the same among their alignments.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from lhotse.cut import Cut

from rdsdk.errors import DataError

TimedWord = tuple[str, float, float]
"""A word, and where it starts and ends, in seconds."""
WORDS = "word"
"""The usual name of such alignments among a lhotse supervision's."""


def read_word_spans(path: Path) -> dict[str, list[TimedWord]]:
    """A file's words by utterance; utterances without any are left out.

    Raises:
        DataError: the file is missing or damaged.
    """
    found: dict[str, list[TimedWord]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            spans = [(str(word), float(a), float(b)) for word, a, b, *_ in entry["spans"]]
            if not all(math.isfinite(second) for _, *times in spans for second in times):
                raise ValueError(f"times of {entry['utterance']} are no numbers")
            if spans:
                found[str(entry["utterance"])] = spans
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the words in {path} cannot be read ({error}); make the corpus with "
            "rdsdk prepare phones"
        ) from error
    return found


def spans_of(cut: Cut) -> list[TimedWord]:
    """The words of a cut's own alignment, in order; none if it has none."""
    spans = [
        (item.symbol, item.start, item.end)
        for supervision in cut.supervisions
        for item in (supervision.alignment or {}).get(WORDS, ())
        if item.symbol.strip()
    ]
    return sorted(spans, key=lambda span: span[1])
