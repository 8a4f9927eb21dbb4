"""A closed vocabulary: what a word that is not in the lexicon most likely was.

The forward algorithm of CTC (Graves et al. 2006, section 4.1) sums over every alignment of a
spelling to the frames of one word; the best spelling of the lexicon is taken when it is likely
enough beside the greedy one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdsdk.decoding.vocabulary import Vocabulary

# A misheard letter costs some 2 to 5 nats and a word of four letters may have one; a word that
# was never in the lexicon differs in most of its letters. In nats per symbol of the lexicon word.
MIN_LOG_RATIO_PER_SYMBOL = -2.5


def ctc_log_likelihood(log_probs: np.ndarray, ids: Sequence[int], blank: int) -> float:
    """log P(ids | frames) summed over all alignments; -inf when the frames are too few.

    Args:
        log_probs: (T, V) log probabilities.
        ids: symbol ids without blanks, at least one.
        blank: the id of the blank.
    """
    frames = len(log_probs)
    path = np.full(2 * len(ids) + 1, blank)
    path[1::2] = ids
    emitted = log_probs[:, path].astype(np.float64)
    # A blank between two symbols may be skipped unless the symbols are the same.
    skip = np.zeros(len(path), bool)
    skip[3::2] = path[3::2] != path[1:-2:2]
    alpha = np.full(len(path), -np.inf)
    if frames == 0:
        return -np.inf
    alpha[:2] = emitted[0, :2]
    with np.errstate(invalid="ignore", divide="ignore"):
        for t in range(1, frames):
            before = np.full(len(path), -np.inf)
            before[1:] = alpha[:-1]
            two_before = np.full(len(path), -np.inf)
            two_before[2:] = np.where(skip[2:], alpha[:-2], -np.inf)
            alpha = np.logaddexp(np.logaddexp(alpha, before), two_before) + emitted[t]
    return float(np.logaddexp(alpha[-1], alpha[-2]))


class Lexicon:
    """The words a decoder may give, and the choice between them."""

    def __init__(
        self, vocabulary: Vocabulary, min_log_ratio: float = MIN_LOG_RATIO_PER_SYMBOL
    ) -> None:
        self._blank = vocabulary.blank
        self._min_log_ratio = min_log_ratio
        self._spellings = {word: vocabulary.encode(word) for word in vocabulary.lexicon or ()}

    def __contains__(self, word: str) -> bool:
        return word in self._spellings

    def begins(self, prefix: str) -> bool:
        """Whether some word of the lexicon starts so."""
        return any(word.startswith(prefix) for word in self._spellings)

    def closest(self, log_probs: np.ndarray, heard: Sequence[int]) -> tuple[str, float] | None:
        """The likeliest word for the frames (T, V) in which ``heard`` (ids) was read greedily.

        Returns:
            The word and a confidence in [0, 1]: e to the ratio of its log likelihood to that of
            ``heard``, per symbol. None when even the best word is too unlikely.
        """
        heard_score = ctc_log_likelihood(log_probs, heard, self._blank)
        scores = {
            word: (ctc_log_likelihood(log_probs, ids, self._blank) - heard_score) / len(ids)
            for word, ids in self._spellings.items()
        }
        if not scores:
            return None
        word = max(scores, key=scores.__getitem__)
        if not scores[word] >= self._min_log_ratio:
            return None
        return word, float(np.exp(min(scores[word], 0.0)))
