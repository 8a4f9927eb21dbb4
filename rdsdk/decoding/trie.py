"""Spellings of words as a tree of symbols, in arrays that many hypotheses are looked up in at once.

Shapes: N nodes, of which the first I have children; V symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

ROOT = 0
NONE = -1


class SmearingMode(Enum):
    """What a node promises of the words below it."""

    MAX = 1


class Trie:
    """Insert spellings, then ``smear`` once, then look up.

    Attributes, after ``smear``:
        children: (I, V) int32, the node that a symbol leads to, or ``NONE``.
        best: (N,) float64, the best score of the words that end at a node or below it.
        first_label, label_count: (N,) where a node's words begin in ``labels``, and how many.
        labels: the words, by node.
    """

    def __init__(self, symbols: int, root: int = ROOT) -> None:
        self._symbols = symbols
        self._next: dict[tuple[int, int], int] = {}
        self._words: list[list[tuple[int, float]]] = [[]]
        self.children = np.zeros((0, symbols), np.int32)
        self.best = self.first_label = self.label_count = self.labels = np.zeros(0)

    def insert(self, spelling: Sequence[int], label: int, score: float) -> None:
        """Add a word; several may be spelled alike."""
        node = ROOT
        for symbol in spelling:
            after = self._next.get((node, symbol))
            if after is None:
                after = self._next[node, symbol] = len(self._words)
                self._words.append([])
            node = after
        self._words[node].append((label, score))

    def smear(self, mode: SmearingMode) -> None:
        """Make the arrays. What a node promises is the best of the nodes below it, and of all the
        words together that end at it."""
        count = len(self._words)
        best = np.full(count, -np.inf, np.float32)
        for node, words in enumerate(self._words):
            if words:
                best[node] = np.logaddexp.reduce([score for _, score in words])
        edges = np.array([(*edge, after) for edge, after in self._next.items()], np.int64)
        parent, symbol, child = edges.reshape(-1, 3).T
        # A node's number is above its parent's: from the last on, all below a node is known.
        for above, below in zip(parent[::-1].tolist(), child[::-1].tolist(), strict=True):
            best[above] = max(best[above], best[below])
        inner = np.zeros(count, bool)
        inner[parent] = inner[ROOT] = True
        # Nodes without children come last and take no rows.
        order = np.argsort(~inner, kind="stable")
        number = np.empty(count, np.int32)
        number[order] = np.arange(count, dtype=np.int32)
        self.children = np.full((int(inner.sum()), self._symbols), NONE, np.int32)
        self.children[number[parent], symbol] = number[child]
        self.best = best[order].astype(np.float64)
        self.label_count = np.array([len(self._words[node]) for node in order], np.int64)
        self.first_label = np.cumsum(self.label_count) - self.label_count
        self.labels = np.array([label for n in order for label, _ in self._words[n]], np.int64)
        self._next, self._words = {}, []
