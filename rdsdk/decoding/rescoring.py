"""Reading a lattice of words again, with a language model that is too slow for the search.

The search finds which words may be where, with an n-gram language model; here the ways through them
are weighed by a recurrent one too, which remembers all words before (T. Mikolov et al. 2010). At
each frame where words meet the best histories are kept, whole ones, and a word is given as soon as
all of them that lead to where the search is agree on it. Where they do not agree for three seconds
the best one is followed, but for its last second.

A history remembers what it was told: words are scored once for each, whatever frames they lie in.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from rdsdk.decoding.lattice import Arc
from rdsdk.decoding.word_scores import WordScores

PATIENCE_FRAMES = 150
"""So long the histories may disagree about a word."""
_UNDECIDED_FRAMES = 50
_BEHIND = 14.0  # nats; a history so much worse than the best one at its frame is dropped


class History:
    """Words in a row, and what the language models make of them."""

    __slots__ = (
        "__weakref__",
        "children",
        "depth",
        "label",
        "log_probs",
        "neural",
        "ngram",
        "parent",
        "scores",
    )

    def __init__(self, parent: History | None, label: int, ngram: Any) -> None:
        self.parent = parent
        self.label = label
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.ngram = ngram
        self.neural: Any = None
        self.log_probs: np.ndarray | None = None  # (V,), a hundred kilobytes
        # Weak, or all that was ever dropped would be kept until the root moves on.
        self.children: WeakValueDictionary[int, History] = WeakValueDictionary()
        self.scores: dict[int, tuple[Any, float]] = {}


class _Way:
    """The best way through the lattice that says a history and ends at some frame."""

    __slots__ = ("arc", "before", "score")

    def __init__(self, score: float, arc: Arc | None, before: _Way | None) -> None:
        self.score = score
        self.arc = arc
        self.before = before


class Rescorer:
    """The histories of one stream.

    Args:
        scores: of words.
        width: histories kept at each frame.
    """

    def __init__(self, scores: WordScores, width: int) -> None:
        self._scores = scores
        self._width = width
        self._tails: Mapping[int, float] = {}
        self._lead: int | None = None
        self._nodes: dict[int, dict[History, _Way]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._neural: Any = self._scores.fresh()
        self._start_at(0)

    def begin(self, frame: int) -> None:
        """The search begins anew at a frame: histories that lead there go on, if there are any."""
        if frame in self._nodes:
            self._nodes = {frame: self._nodes[frame]}
            self._tails, self._lead = {frame: 0.0}, frame
        else:
            self._start_at(frame)

    @property
    def is_alive(self) -> bool:
        """Whether any history leads to where the search is."""
        return any(frame in self._nodes for frame in self._tails)

    def hear(
        self, arcs: Sequence[Arc], tails: Mapping[int, float], lead: int | None = None
    ) -> None:
        """Hear more words.

        Args:
            arcs: new ones, in the order of their ends.
            tails: the frames where the search may go on, each with the score of what follows.
            lead: the one of them where it most likely does; None if by what follows. A word in the
                making costs nothing yet, so that what follows tells only where all words are over.
        """
        # What lies there already in one go; what is added on the way, by and by.
        self._expect(self._before(arcs))
        for end, here in groupby(arcs, key=lambda arc: arc.end):
            self._add(end, list(here))
        self._tails, self._lead = tails, lead

    def decide(self, start: int, now: int) -> list[Arc]:
        """Give the words that will not change any more.

        Args:
            start: no new word will begin before this frame.
            now: so many frames were heard.
        """
        best, way = self._leading()
        decided = _ancestor([h for frame in self._tails for h in self._nodes.get(frame, ())])
        if decided is self._root and best is not self._root:
            first = _arcs(way, best.depth - self._root.depth)[0]
            if first.end < now - PATIENCE_FRAMES:
                decided = self._until(best, way, now - _UNDECIDED_FRAMES)
        given = self._give(best, way, decided)
        self._nodes = {f: n for f, n in self._nodes.items() if f >= start or f in self._tails}
        return given

    def leads_to(self, frame: int) -> bool:
        """Whether any history leads to a frame."""
        return frame in self._nodes

    def best(self, frame: int | None = None) -> list[Arc]:
        """The words that are not given yet of the best history that leads to a frame, by default
        to where the search is.
        """
        history, way = self._leading() if frame is None else _best_of(self._nodes[frame])
        return _arcs(way, history.depth - self._root.depth)

    def settle(self, frame: int) -> list[Arc]:
        """Give the words of the best history that leads to a frame, and follow no other."""
        history, way = _best_of(self._nodes[frame])
        self._nodes = {frame: {history: way}}
        self._tails, self._lead = {frame: 0.0}, frame
        return self._give(history, way, history)

    def follow(self, arcs: Sequence[Arc], tails: Mapping[int, float]) -> None:
        """No history leads to where the search is: follow one of its hypotheses, from what was
        given on.
        """
        history, way = self._root, _Way(0.0, None, None)
        for arc in arcs:
            if arc.start + arc.end > 2 * self._given_until:
                self._expect([history])
                history, way = self._after(history, arc.label), _Way(0.0, arc, way)
        self._nodes = {frame: {history: way} for frame in tails}
        self._tails, self._lead = tails, None

    def finish(self) -> list[Arc]:
        """Give all words; what follows is another sentence."""
        history, way = self._leading()
        given = _arcs(way, history.depth - self._root.depth)
        self._expect([history])
        self._neural = history.neural
        self._nodes = {}
        return given

    def _start_at(self, frame: int) -> None:
        self._root = History(None, -1, self._scores.start())
        self._root.neural, self._root.log_probs = self._scores.end_of_sentence(self._neural)
        self._given_until = frame
        self._nodes = {frame: {self._root: _Way(0.0, None, None)}}
        self._tails, self._lead = {frame: 0.0}, frame

    def _before(self, arcs: Iterable[Arc]) -> list[History]:
        return [h for start in {arc.start for arc in arcs} for h in self._nodes.get(start, ())]

    def _add(self, end: int, arcs: Sequence[Arc]) -> None:
        """All words that end at a frame, after all histories that lead to where they begin."""
        self._expect(self._before(arcs))
        # By the history before and the last word: most are dropped before they are ever made.
        node = self._nodes.get(end, {})
        ways = {(history.parent, history.label): way for history, way in node.items()}
        least = max((way.score for way in ways.values()), default=-math.inf) - _BEHIND
        for arc in arcs:
            for history, before in self._nodes.get(arc.start, {}).items():
                score = before.score + arc.score + self._score(history, arc.label)[1]
                if score < least:
                    continue
                after = history, arc.label
                if after not in ways or score > ways[after].score:
                    ways[after] = _Way(score, arc, before)
                    least = max(least, score - _BEHIND)
        if ways:
            best = heapq.nlargest(self._width, ways.items(), key=lambda item: item[1].score)
            self._nodes[end] = {
                self._root if parent is None else self._after(parent, label): way
                for (parent, label), way in best
                if way.score >= least
            }

    def _score(self, history: History, label: int) -> tuple[Any, float]:
        known = history.scores.get(label)
        if known is None:
            assert history.log_probs is not None
            state, nats = self._scores.ngram(history.ngram, label)
            known = (state, self._scores.combined(nats, history.log_probs, label))
            history.scores[label] = known
        return known

    def _after(self, history: History, label: int) -> History:
        child = history.children.get(label)
        if child is None:
            child = History(history, label, self._score(history, label)[0])
            history.children[label] = child
        return child

    def _expect(self, histories: Iterable[History]) -> None:
        """Ask the recurrent model what may follow these histories."""
        new = [h for h in dict.fromkeys(histories) if h.log_probs is None]
        states = [h.parent.neural for h in new if h.parent is not None]
        known = self._scores.advance([h.label for h in new], states) if new else []
        for history, (neural, log_probs) in zip(new, known, strict=True):
            history.neural, history.log_probs = neural, log_probs

    def _leading(self) -> tuple[History, _Way]:
        """The best history that leads to where the search is."""
        if self._lead is not None and self._lead in self._nodes:
            return _best_of(self._nodes[self._lead])
        ways = [
            (way.score + rest, history, way)
            for frame, rest in self._tails.items()
            for history, way in self._nodes.get(frame, {}).items()
        ]
        _, history, way = max(ways, key=lambda item: item[0])
        return history, way

    def _until(self, history: History, way: _Way, frame: int) -> History:
        """The history's words that end by a frame; one at least."""
        while history.depth > self._root.depth + 1 and way.arc is not None and way.arc.end > frame:
            assert history.parent is not None
            assert way.before is not None
            history, way = history.parent, way.before
        return history

    def _give(self, best: History, way: _Way, decided: History) -> list[Arc]:
        """The words of the decided history that are new, where the best one has them."""
        if decided is self._root:
            return []
        new = decided.depth - self._root.depth
        given = _arcs(way, best.depth - self._root.depth)[:new]
        self._given_until = given[-1].end
        self._expect([decided])
        self._root = decided
        nodes = {
            frame: {history: way for history, way in node.items() if self._follows(history)}
            for frame, node in self._nodes.items()
        }
        self._nodes = {frame: node for frame, node in nodes.items() if node}
        # What was given is forgotten: a stream may never end.
        for node in self._nodes.values():
            for history, kept in node.items():
                for _ in range(history.depth - decided.depth):
                    assert kept.before is not None
                    kept = kept.before
                kept.arc = kept.before = None
        decided.parent = None
        return given

    def _follows(self, history: History) -> bool:
        while history.depth > self._root.depth and history.parent is not None:
            history = history.parent
        return history is self._root


def _best_of(node: Mapping[History, _Way]) -> tuple[History, _Way]:
    return max(node.items(), key=lambda item: item[1].score)


def _arcs(way: _Way, count: int) -> list[Arc]:
    """The last ``count`` words of a way."""
    arcs: list[Arc] = []
    at: _Way | None = way
    while len(arcs) < count:
        assert at is not None
        assert at.arc is not None
        arcs.append(at.arc)
        at = at.before
    return arcs[::-1]


def _ancestor(histories: Iterable[History]) -> History:
    """The longest history that all begin with."""
    left = set(histories)
    while len(left) > 1:
        deepest = max(history.depth for history in left)
        left = {h.parent if h.depth == deepest and h.parent else h for h in left}
    return left.pop()
