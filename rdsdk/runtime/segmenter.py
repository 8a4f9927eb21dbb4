"""Words to segments: gathers what a decoder gives and asks the endpoint rules after every frame.

Deciding frame by frame, never block by block, is what makes the final segments independent of how
a recording was cut into blocks.
"""

from __future__ import annotations

import math

import numpy as np

from rdsdk.decoding.decoder import Decoder
from rdsdk.decoding.segment import Segment, Word
from rdsdk.runtime.endpoint import EndpointRules


class Segmenter:
    """log_probs (T, V) in, final segments out, and the partial one on demand."""

    def __init__(self, decoder: Decoder, rules: EndpointRules) -> None:
        self._decoder = decoder
        self._rules = rules
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is at second 0."""
        self._decoder.reset()
        self._words: list[Word] = []
        self._told_until = 0.0  # where the last final segment ends

    def feed(self, log_probs: np.ndarray, latest_seconds: float = math.inf) -> list[Segment]:
        """Read frames (T, V) and return the segments that became final within them.

        Where the recording ends after ``latest_seconds``, frames may go on into the silence behind
        it; no word or silence ends later.
        """
        finals = []
        for frame in log_probs[:, None]:
            self._words += self._told(self._decoder.feed(frame))
            if self._is_over():
                finals += self._close(latest_seconds)
            elif self._is_unspoken(latest_seconds):
                finals.append(self._silence())
        return finals

    def finish(self, duration_seconds: float) -> list[Segment]:
        """The recording is over after ``duration_seconds``; no word ends later."""
        return self._close(duration_seconds)

    def partial(self) -> Segment | None:
        """What has been heard since the last final segment; None when nothing has."""
        words = (*self._words, *self._told(self._decoder.unfinished()))
        if not words:
            return None
        return _segment(words, is_final=False, stable=_text(self._words))

    def _told(self, words: list[Word]) -> list[Word]:
        """No word begins in a silence that was told: a search may find it there all the same."""
        earliest = self._told_until
        return [
            word
            if word.start >= earliest
            else Word(word.text, earliest, max(word.end, earliest), word.confidence)
            for word in words
        ]

    def _is_over(self) -> bool:
        opened, last = self._decoder.open_seconds, self._decoder.last_symbol_seconds
        if not self._words and opened is None:
            return False
        begin = self._words[0].start if self._words else opened
        end = self._words[-1].end if last is None else last
        now = self._decoder.seconds
        assert begin is not None
        return self._rules.is_over(now - end, now - begin, self._decoder.between_words)

    def _is_unspoken(self, latest_seconds: float) -> bool:
        now = self._decoder.seconds
        if self._words or self._decoder.open_seconds is not None or now > latest_seconds:
            return False
        return self._rules.is_unspoken(now - self._told_until)

    def _silence(self) -> Segment:
        start, self._told_until = self._told_until, self._decoder.seconds
        return Segment("", (), start, self._told_until, is_final=True)

    def _close(self, latest_seconds: float) -> list[Segment]:
        words, self._words = [*self._words, *self._told(self._decoder.end())], []
        if not words:
            return []
        words = [_inside(word, latest_seconds) for word in words]
        self._told_until = words[-1].end
        return [_segment(tuple(words), is_final=True, stable=_text(words))]


def _inside(word: Word, latest_seconds: float) -> Word:
    """The last frames reach beyond the last sample, and a symbol may come in the silence after."""
    if word.end <= latest_seconds:
        return word
    start = min(word.start, latest_seconds)
    return Word(word.text, start, latest_seconds, word.confidence)


def _text(words: list[Word] | tuple[Word, ...]) -> str:
    return " ".join(word.text for word in words)


def _segment(words: tuple[Word, ...], is_final: bool, stable: str) -> Segment:
    return Segment(_text(words), words, words[0].start, words[-1].end, is_final, stable)
