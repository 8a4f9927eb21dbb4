"""A search's hypotheses -> a lattice -> words by both language models.

The search goes on as without it: its hypotheses are read from time to time, and what they say
becomes arcs. Where the search begins anew, the histories that lead there go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rdsdk.decoding.alignments import summed
from rdsdk.decoding.lattice import Arc, arcs_of
from rdsdk.decoding.reading import Read, read_path, word_of
from rdsdk.decoding.rescoring import Rescorer
from rdsdk.decoding.segment import Word
from rdsdk.decoding.vocabulary import Vocabulary

HYPOTHESES = 200
"""So many of the search's, the best ones, are read."""


class Rereader:
    """One stream's.

    Args:
        rescorer: its histories.
        vocabulary: what is searched for, with what ends a word.
        spoken: the words of a label.
        frame_seconds: seconds from one frame to the next.
        sums: a word scores the sum over its alignments, as the search's settings say.

    Attributes:
        unsaid: the frames of the words that are not given yet: first, and after the last; None
            when there are none.
    """

    def __init__(
        self,
        rescorer: Rescorer,
        vocabulary: Vocabulary,
        spoken: Callable[[int], tuple[str, ...]],
        frame_seconds: float,
        sums: bool,
    ) -> None:
        boundary = vocabulary.boundary_id
        assert boundary is not None
        self._boundary = boundary
        self._rescorer = rescorer
        self._vocabulary = vocabulary
        self._spoken = spoken
        self._frame_seconds = frame_seconds
        self._sums = sums
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is number 0."""
        self._rescorer.reset()
        self.unsaid: tuple[int, int] | None = None
        self._read_until = 0

    def begin(self, frame: int) -> None:
        """The search begins anew."""
        self._rescorer.begin(frame)
        self._read_until = frame

    def extend(self, paths: np.ndarray, rows: Sequence[np.ndarray], start: int) -> list[Word]:
        """Read hypotheses, and return the words that will not change any more.

        Args:
            paths: (N, T) their symbols, the best one's first, the ends of words by label
                (``reading.read_path``).
            rows: what the T frames score.
            start: the number of the first of them.
        """
        self._hear(paths, np.stack(rows), start, is_over=False)
        given = self._rescorer.decide(start, start + len(rows))
        arcs = self._rescorer.best()
        self.unsaid = None
        if arcs:
            first, last = self._reads(arcs[0])[0], self._reads(arcs[-1])[-1]
            self.unsaid = (arcs[0].start + first.runs[0][0], arcs[-1].start + last.runs[-1][1])
        return self._words(given)

    def unfinished(self, complete: Sequence[Read], start: int) -> tuple[list[Word], int]:
        """The words that are not given yet, as far as hypotheses were read, and how many of the
        best hypothesis' words, ``complete`` from frame ``start`` on, they stand for.
        """
        for count in range(len(complete), -1, -1):
            frame = start + (complete[count - 1].end if count else 0)
            if self._rescorer.leads_to(frame):
                return self._words(self._rescorer.best(frame)), count
        return [], 0

    def settle(self, best: np.ndarray, rows: Sequence[np.ndarray], start: int) -> list[Word]:
        """The search has settled on the words of its best hypothesis until the last of these
        frames; the histories settle on the best one that leads there.
        """
        self.unsaid = None
        frame = start + len(rows)
        if not self._rescorer.leads_to(frame):
            self._follow(best, np.stack(rows), start)
        return self._words(self._rescorer.settle(frame))

    def finish(self, paths: np.ndarray, rows: Sequence[np.ndarray], start: int) -> list[Word]:
        """As ``extend``, and return all words: a sentence ends here."""
        self._hear(paths, np.stack(rows), start, is_over=True)
        self.unsaid = None
        return self._words(self._rescorer.finish())

    def _hear(self, paths: np.ndarray, rows: np.ndarray, start: int, is_over: bool) -> None:
        arcs, tails = self._arcs(paths, rows, start, self._read_until)
        self._read_until = start + len(rows)
        _, of_best = self._arcs(paths[:1], rows, start, self._read_until)  # where its words end
        self._rescorer.hear(arcs, tails, None if is_over else next(iter(of_best)))
        if not self._rescorer.is_alive:
            self._follow(paths[0], rows, start)

    def _follow(self, best: np.ndarray, rows: np.ndarray, start: int) -> None:
        """No history leads to where the search is: its best hypothesis is followed as it stands."""
        self._rescorer.follow(*self._arcs(best[None], rows, start, since=-1))

    def _arcs(
        self, paths: np.ndarray, rows: np.ndarray, start: int, since: int
    ) -> tuple[list[Arc], dict[int, float]]:
        first_label = len(self._vocabulary) + 1
        arcs, tails = arcs_of(paths, rows, first_label, self._boundary, start, since)
        if self._sums:
            arcs = summed(arcs, self._vocabulary.blank, self._boundary)
        return arcs, tails

    def _reads(self, arc: Arc) -> list[Read]:
        return read_path(arc.path, self._vocabulary, self._spoken)[0]

    def _words(self, arcs: Iterable[Arc]) -> list[Word]:
        return [
            word_of(read, arc.rows, arc.start, self._frame_seconds)
            for arc in arcs
            for read in self._reads(arc)
        ]
