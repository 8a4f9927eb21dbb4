"""A recurrent language model without weights: what follows is drawn by all words before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class DrawnRnnLm:
    """As ``rdsdk.decoding.rnnlm.RnnLm``; its state is the words themselves."""

    end, unknown = 0, 1

    def __init__(self, words: Sequence[str], spread: float = 2.0) -> None:
        self.words = ("</s>", "<unk>", *words)
        self.spread = spread
        self.calls = 0

    def index(self, word: str) -> int:
        return self.words.index(word) if word in self.words else self.unknown

    def fresh(self) -> tuple[int, ...]:
        return ()

    def after(self, history: tuple[int, ...]) -> np.ndarray:
        seed = np.random.default_rng([len(history), *history])
        logits = seed.normal(0, self.spread, len(self.words))
        return (logits - np.logaddexp.reduce(logits)).astype(np.float32)

    def advance(
        self, words: Sequence[int], states: Sequence[tuple[int, ...]]
    ) -> list[tuple[tuple[int, ...], np.ndarray]]:
        self.calls += 1
        histories = [(*state, word) for word, state in zip(words, states, strict=True)]
        return [(history, self.after(history)) for history in histories]
