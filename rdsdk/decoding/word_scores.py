"""How likely words are after others, by an n-gram language model and a recurrent one together.

The logarithms of both are weighed and added (log-linear interpolation, D. Klakow 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rdsdk.decoding.language_model import LN_10
from rdsdk.decoding.rnnlm import RnnLm, State
from rdsdk.decoding.settings import BeamSettings

_RAREST = -20.0  # nats of a word that the n-gram language model does not know


class WordScores:
    """Words by the labels of a search.

    A word that the recurrent model does not know is as likely as it says of all such words
    together, times the word's share of them by the n-gram language model.

    Args:
        rnnlm: the recurrent model.
        lm: the search's, of labels; its hotwords are worth more already.
        spoken: the words of each label.
        settings: their weights.
        scale: nats for one unit of ``lm``.
        boosted: hotwords, which are weighed by ``lm`` alone.
    """

    def __init__(
        self,
        rnnlm: RnnLm,
        lm: Any,
        spoken: Sequence[tuple[str, ...]],
        settings: BeamSettings,
        scale: float,
        boosted: Sequence[str],
    ) -> None:
        self._rnnlm = rnnlm
        self._lm = lm
        self._scale = scale
        self._weight = settings.lm_weight
        self._share = settings.rnnlm_share
        self._word_score = settings.word_score
        hotwords = {tuple(hotword.split()) for hotword in boosted}
        self._ids = [tuple(rnnlm.index(word) for word in words) for words in spoken]
        self._alone = [words in hotwords or len(words) > 1 for words in spoken]
        nothing = lm.start(True)
        nats = scale / settings.lm_weight if settings.lm_weight else LN_10
        rare = [n for n, ids in enumerate(self._ids) if ids == (rnnlm.unknown,)]
        common = np.array([max(_RAREST, nats * lm.score(nothing, n)[1]) for n in rare])
        self._of_unknown = np.zeros(len(spoken))
        if rare:
            self._of_unknown[rare] = common - np.logaddexp.reduce(common)

    def start(self) -> Any:
        """The n-gram's state before the first word."""
        return self._lm.start(False)

    def ngram(self, state: Any, label: int) -> tuple[Any, float]:
        """The state after a word, and nats for it: its weight and what hotwords are worth in."""
        after, score = self._lm.score(state, label)
        return after, self._scale * score

    def fresh(self) -> State:
        """The recurrent model's state before it has read anything."""
        return self._rnnlm.fresh()

    def advance(
        self, labels: Sequence[int], states: Sequence[State]
    ) -> list[tuple[State, np.ndarray]]:
        """For each state, the one after a word and the log_probs (V,) of what may follow."""
        known = self._rnnlm.advance([self._ids[label][0] for label in labels], states)
        # A hotword of several words is read word by word.
        for n, label in enumerate(labels):
            for word in self._ids[label][1:]:
                (known[n],) = self._rnnlm.advance([word], [known[n][0]])
        return known

    def end_of_sentence(self, state: State) -> tuple[State, np.ndarray]:
        """The same for one state and the end of a sentence."""
        (known,) = self._rnnlm.advance([self._rnnlm.end], [state])
        return known

    def combined(self, ngram: float, log_probs: np.ndarray, label: int) -> float:
        """Nats for a word: ``ngram`` is the n-gram's, ``log_probs`` what the other one expects."""
        if self._alone[label]:
            return ngram + self._word_score
        nats = float(log_probs[self._ids[label][0]]) + float(self._of_unknown[label])
        return (1 - self._share) * ngram + self._share * self._weight * nats + self._word_score
