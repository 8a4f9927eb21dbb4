"""A stream fed in blocks, and its segments in a form that compares."""

from __future__ import annotations

import numpy as np

from rdsdk.decoding.segment import Segment
from rdsdk.runtime.stream import Stream


def hear(stream: Stream, waveform: np.ndarray, sizes: tuple[int, ...] = ()) -> list[Segment]:
    """All final segments."""
    segments, at = [], 0
    for size in sizes:
        segments += stream.feed(waveform[at : at + size])
        at += size
    segments += stream.feed(waveform[at:])
    segments += stream.finish()
    return [segment for segment in segments if segment.is_final]


def rounded(segments: list[Segment]) -> list[tuple]:
    """Text and times as they are, confidences to what float rounding leaves alone."""
    return [
        (
            s.text,
            s.start,
            s.end,
            [(w.text, w.start, w.end, round(w.confidence, 4)) for w in s.words],
        )
        for s in segments
    ]
