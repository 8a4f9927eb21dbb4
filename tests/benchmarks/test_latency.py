"""Delays are counted as they are said to be."""

from __future__ import annotations

import pytest

from rdsdk import Segment, Word
from tests.benchmarks.latency import Event, Heard, score
from tests.benchmarks.spoken import Spoken


def segment(text: str, final: bool = False, stable: str = "") -> Segment:
    words = tuple(Word(word, 0.5 * n, 0.5 * n + 0.4, 1.0) for n, word in enumerate(text.split()))
    return Segment(text, words, 0.0, 2.0, is_final=final, stable=text if final else stable)


def test_a_word_is_shown_promised_taken_back_and_final() -> None:
    said = [Spoken("SEVEN", 0.1, 0.4), Spoken("TREES", 0.5, 1.0), Spoken("FELL", 1.1, 1.5)]
    events = [
        Event(0.6, segment("SEVEN")),
        Event(1.2, segment("SEVEN FLEES", stable="SEVEN")),
        Event(1.7, segment("SEVEN TREES", stable="SEVEN")),
        Event(1.9, segment("SEVEN TREES SELL", stable="SEVEN TREES")),
        Event(2.5, segment("SEVEN TREES SELL", final=True)),
    ]
    heard = Heard()
    score(heard, said, events)
    assert (heard.errors, heard.words, heard.taken_back) == (1, 3, 0)
    assert heard.partial == pytest.approx([0.2, 0.7])
    assert heard.promised == pytest.approx([0.8, 0.9])
    assert heard.final == []  # the last word was not recognised
    assert heard.start_error == pytest.approx([-0.1, 0.0])


def test_a_word_that_was_shown_and_went_away_is_counted() -> None:
    said = [Spoken("SEVEN", 0.1, 0.4)]
    events = [
        Event(0.5, segment("SEVEN")),
        Event(0.8, segment("HEAVEN")),
        Event(1.4, segment("SEVEN", final=True)),
    ]
    heard = Heard()
    score(heard, said, events)
    assert heard.taken_back == 1
    assert heard.partial == pytest.approx([0.1])
    assert heard.promised == heard.final == pytest.approx([1.0])
