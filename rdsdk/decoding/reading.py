"""The words on the path of a hypothesis, which has a symbol for each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rdsdk.decoding.segment import Word
from rdsdk.decoding.vocabulary import Vocabulary

Spoken = Callable[[int], tuple[str, ...]]
"""The words of a label."""


@dataclass(frozen=True)
class Read:
    """A word on a path."""

    ids: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    """The frames of each symbol: first, after the last."""
    end: int
    """The frame after the boundary that completed it, or after its last symbol."""
    text: str


def read_path(
    path: Iterable[int], vocabulary: Vocabulary, spoken: Spoken | None = None
) -> tuple[list[Read], Read | None]:
    """The complete words of a path, and an open one.

    Args:
        path: a symbol for each frame; with ``spoken``, V + 1 + n is the boundary behind the word of
            label n, and V one inside a hotword of several words.
        vocabulary: of V symbols.
        spoken: None where the symbols of a word spell it.
    """
    boundary, blank, size = vocabulary.boundary_id, vocabulary.blank, len(vocabulary)
    complete: list[Read] = []
    parts: list[Read] = []  # of a hotword, until its label comes
    ids: list[int] = []
    runs: list[tuple[int, int]] = []
    previous, frame = -1, -1
    for frame, symbol in enumerate(path):
        ends = symbol == boundary or symbol >= size
        if ids and (ends if boundary is not None else symbol != previous):
            end = frame if boundary is None else frame + 1
            text = "" if spoken else vocabulary.decode(ids)
            parts.append(Read(tuple(ids), tuple(runs), end, text))
            ids, runs = [], []
            if spoken is None:
                complete += parts
                parts = []
            elif symbol > size:
                # The first words of a hotword may have been given before, and told again since.
                said = spoken(symbol - size - 1)[-len(parts) :]
                complete += [replace(p, text=t) for p, t in zip(parts, said, strict=True)]
                parts = []
        if symbol != blank and not ends:
            if symbol == previous:
                runs[-1] = (runs[-1][0], frame + 1)
            else:
                ids.append(int(symbol))
                runs.append((frame, frame + 1))
        previous = symbol
    if not ids and not parts:
        return complete, None
    unsaid = [*parts, *([Read(tuple(ids), tuple(runs), frame + 1, "")] if ids else [])]
    opened = Read(
        tuple(symbol for part in unsaid for symbol in part.ids),
        tuple(run for part in unsaid for run in part.runs),
        frame + 1,
        "" if spoken else vocabulary.decode(ids),
    )
    return complete, opened


def word_of(
    read: Read, rows: Sequence[np.ndarray] | np.ndarray, start: int, frame_seconds: float
) -> Word:
    """A word on a path that begins at frame ``start``, of frames that score ``rows`` (T, V).

    Confidence is the geometric mean of each symbol's likeliest frame.
    """
    peaks = [
        float(max(rows[frame][symbol] for frame in range(first, after)))
        for symbol, (first, after) in zip(read.ids, read.runs, strict=True)
    ]
    return Word(
        read.text,
        seconds_of(start + read.runs[0][0], frame_seconds),
        seconds_of(start + read.runs[-1][1], frame_seconds),
        min(float(np.exp(np.mean(peaks))), 1.0),
    )


def seconds_of(frame: int, frame_seconds: float) -> float:
    """Where a frame begins, to the microsecond, as the greedy decoder gives it."""
    return round(frame * frame_seconds, 6)
