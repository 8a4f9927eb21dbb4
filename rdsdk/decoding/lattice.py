"""Words between frames: what the hypotheses of a search have said, and how well each word fits.

A search keeps whole hypotheses, and drops those that fall behind. The words that were in one of
them for a while are kept here as arcs of a lattice, from the frame where a word may begin to the
one behind its end (S. Ortmanns, H. Ney and X. Aubert 1997). Every way through the arcs is a reading
of the frames; ``rdsdk.decoding.rescoring`` weighs them by what is too slow for the search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Arc:
    """A word that was heard.

    Attributes:
        label: of the word, as the search counts them.
        start, end: its first frame, the silence before it included, and the frame behind its end.
        score: log P of its symbols, summed over its frames.
        path: (end - start,) what it says in each frame, as ``arcs_of`` was given it.
        rows: (end - start, V) what the frames score.
    """

    label: int
    start: int
    end: int
    score: float
    path: np.ndarray
    rows: np.ndarray


def arcs_of(
    paths: np.ndarray, rows: np.ndarray, first_label: int, boundary: int, start: int, since: int
) -> tuple[list[Arc], dict[int, float]]:
    """The words of hypotheses that end behind frame ``since``, in the order of their ends.

    Args:
        paths: (N, T) a symbol for each frame; ``first_label + n`` ends the word of label n.
        rows: (T, V) what the frames score.
        boundary: the column of what ends a word.
        start: the number of the first of the T frames.

    Returns:
        The arcs, the best of each word between two frames; and the frames behind the last words of
        the hypotheses, each with the best score of what follows there until the last frame.
    """
    count, length = paths.shape
    ends = paths >= first_label
    columns = np.where(paths >= first_label - 1, boundary, paths)
    total = np.zeros((count, length + 1))
    np.cumsum(rows[np.arange(length), columns], axis=1, out=total[:, 1:])
    hypothesis, frame = np.nonzero(ends)
    begin = np.where(np.diff(hypothesis, prepend=-1) != 0, 0, np.roll(frame, 1) + 1)
    new = frame + 1 + start > since
    hypothesis, frame, begin = hypothesis[new], frame[new], begin[new]
    score = total[hypothesis, frame + 1] - total[hypothesis, begin]
    labels = paths[hypothesis, frame] - first_label
    best: dict[tuple[int, int, int], int] = {}
    for n in np.argsort(-score, kind="stable").tolist():
        best.setdefault((int(frame[n]) + 1, int(begin[n]), int(labels[n])), n)
    arcs = [
        Arc(
            label,
            start + first,
            start + end,
            float(score[n]),
            paths[hypothesis[n], first:end],
            rows[first:end],
        )
        for (end, first, label), n in sorted(best.items())
    ]
    last = np.where(ends.any(axis=1), length - ends[:, ::-1].argmax(axis=1), 0)
    tails: dict[int, float] = {}
    for at, rest in zip(
        last.tolist(), (total[:, -1] - total[range(count), last]).tolist(), strict=True
    ):
        tails[start + at] = max(rest, tails.get(start + at, -np.inf))
    return arcs, tails
