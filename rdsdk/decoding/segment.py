"""The one event type of every decoder, stream and caption: a Segment of timed words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One recognised word; ``start`` and ``end`` in seconds of the stream, confidence in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech. Partials (``is_final=False``) supersede each other, finals never change.

    An empty partial takes back the one before. ``stable`` is the part of a partial's text that
    later partials will not change.
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    is_final: bool
    stable: str = ""
