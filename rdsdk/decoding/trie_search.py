"""The beam searches of flashlight-text on numpy: for Pythons that it has no wheels for.

The same hypotheses with the same scores (``LexiconDecoder`` and ``LexiconFreeDecoder`` of
flashlight-text 0.0.7, CTC, no unknown words, no scores for silence), computed for all hypotheses of
a frame at once. Names and arguments are the library's, so that one stands in for the other.

Shapes: H hypotheses, V symbols.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from rdsdk.decoding.ngram_scores import LM, LMState, ZeroLM
from rdsdk.decoding.trie import NONE, ROOT, SmearingMode, Trie

__all__ = [
    "LM",
    "CriterionType",
    "LMState",
    "LexiconDecoder",
    "LexiconDecoderOptions",
    "LexiconFreeDecoder",
    "LexiconFreeDecoderOptions",
    "SmearingMode",
    "Trie",
    "ZeroLM",
]

_NO_WORD = -1
_FINISH = -1  # in the place of a label
_FORGET_FRAMES = 64
_LOOK_BACK_LIMIT = 100


class CriterionType(Enum):
    """How symbols become text."""

    CTC = 1


@dataclass(frozen=True)
class LexiconDecoderOptions:
    """How wide to search and what counts how much, in the order of flashlight-text."""

    beam_size: int
    beam_size_token: int
    beam_threshold: float
    lm_weight: float
    word_score: float
    unk_score: float
    sil_score: float
    log_add: bool
    criterion_type: CriterionType


@dataclass(frozen=True)
class LexiconFreeDecoderOptions:
    """The same where words have no spellings."""

    beam_size: int
    beam_size_token: int
    beam_threshold: float
    lm_weight: float
    sil_score: float
    log_add: bool
    criterion_type: CriterionType


class Hypothesis(NamedTuple):
    """Of each frame from the first that is remembered on: its symbol, and the label of the word
    that it completed or -1."""

    score: float
    tokens: np.ndarray
    words: np.ndarray


class _Beam(NamedTuple):
    """Hypotheses of one frame, or candidates for it: (H,) each.

    Attributes:
        score: nats.
        parent: the hypothesis of the frame before.
        state: the number of a language model's state.
        node: of the trie.
        token: the symbol.
        word: the label of the word that ends here, or -1.
        blank: whether the frame is one.
    """

    score: np.ndarray
    parent: np.ndarray
    state: np.ndarray
    node: np.ndarray
    token: np.ndarray
    word: np.ndarray
    blank: np.ndarray


class _Decoder:
    """What both searches have in common: the beam, its history and the language model's states."""

    _nodes = 1
    _has_words = True
    """Whether hypotheses say where words end."""

    def __init__(self, options: Any, lm: Any, silence: int, blank: int) -> None:
        self._options = options
        self._lm = lm
        self._silence = silence
        self._blank = blank
        self.decode_begin()

    def decode_begin(self) -> None:
        """Forget everything."""
        self._states: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # of states, by their identity
        self._after: dict[tuple[int, int], tuple[int, float]] = {}
        self._made = 0
        zero = np.zeros(1, np.int64)
        state = np.array([self._number(self._lm.start(False))])
        self._beam = _Beam(
            np.zeros(1), zero - 1, state, zero + ROOT, zero + self._silence, zero + _NO_WORD,
            np.zeros(1, bool),
        )  # fmt: skip
        self._history = [self._beam]

    def decode(self, address: int, frames: int, symbols: int) -> list[Hypothesis]:
        """All hypotheses of a sound that is whole."""
        self.decode_begin()
        self.decode_step(address, frames, symbols)
        self.decode_end()
        return self.get_all_final_hypothesis()

    def decode_step(self, address: int, frames: int, symbols: int) -> None:
        """Read log_probs (frames, symbols), float32 in a row at an address."""
        values = (ctypes.c_float * (frames * symbols)).from_address(address)
        for row in np.ctypeslib.as_array(values).reshape(frames, symbols).astype(np.float64):
            top = np.argsort(-row, kind="stable")[: self._options.beam_size_token]
            self._keep(self._candidates(row, top))
            if len(self._history) % _FORGET_FRAMES == 0:
                self._forget_states()

    def decode_end(self) -> None:
        """The sound is over: the language model is told."""
        before = self._beam
        who = np.arange(len(before.score))
        whole = before.node == ROOT
        if whole.any():
            who = who[whole]
        state, score = self._scored(before.state[who], np.full(len(who), _FINISH))
        self._keep(
            _Beam(
                score=before.score[who] + self._options.lm_weight * score,
                parent=who,
                state=state,
                node=before.node[who],
                token=np.full(len(who), self._silence),
                word=np.full(len(who), _NO_WORD),
                blank=np.zeros(len(who), bool),
            )
        )

    def get_all_final_hypothesis(self) -> list[Hypothesis]:
        """All hypotheses, as far back as they are remembered."""
        count, length = len(self._beam.score), len(self._history)
        if length < 2:
            return []
        tokens, words = np.empty((2, count, length), np.int64)
        who = np.arange(count)
        for number in range(length - 1, -1, -1):
            frame = self._history[number]
            tokens[:, number], words[:, number] = frame.token[who], frame.word[who]
            who = frame.parent[who]
        return list(map(Hypothesis, self._beam.score.tolist(), tokens, words))

    def prune(self, look_back: int) -> None:
        """Forget all but the last frames, so many or some more: from a place behind a word on."""
        at = last = len(self._history) - 1
        if last - look_back < 1:
            return
        who = int(self._beam.score.argmax())
        least = at - look_back - _LOOK_BACK_LIMIT
        while at > 0:
            parent = int(self._history[at].parent[who])
            behind_word = not self._has_words or self._history[at - 1].word[parent] != _NO_WORD
            if at <= last - look_back and (behind_word or at == least):
                break
            at, who = at - 1, parent
        if at < 1:
            return
        self._history = self._history[at:]
        self._beam = self._beam._replace(score=self._beam.score - self._beam.score.max())
        self._history[-1] = self._beam
        self._forget_states()

    def _candidates(self, row: np.ndarray, top: np.ndarray) -> _Beam:
        raise NotImplementedError

    def _keep(self, candidates: _Beam) -> None:
        """Merge what cannot be told apart any more, and keep the best."""
        # Of what is no number none is the best, and of nothing nothing is.
        best = candidates.score.max(initial=-np.inf)
        near = candidates.score >= best - self._options.beam_threshold
        candidates = _Beam(*(values[near] for values in candidates))
        if not near.any():
            self._beam = candidates
            self._history.append(candidates)
            return
        key = candidates.state * self._nodes + candidates.node
        key = (key * (1 + int(candidates.token.max())) + candidates.token) * 2 + candidates.blank
        order = np.lexsort((-candidates.score, key))
        first = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] - 1))
        score, chosen = candidates.score[order], order[first]
        if self._options.log_add:
            sizes = np.diff(first, append=len(order))
            shares = np.exp(score - np.repeat(score[first], sizes))
            total = score[first] + np.log(np.add.reduceat(shares, first))
        else:
            total = score[first]
        if len(chosen) > self._options.beam_size:
            kept = np.argpartition(-total, self._options.beam_size)[: self._options.beam_size]
            chosen, total = chosen[kept], total[kept]
        merged = _Beam(*(values[chosen] for values in candidates))
        self._beam = merged._replace(score=total)
        self._history.append(self._beam)

    def _scored(self, states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The states after words (W,), and the words' scores."""
        pairs = zip(states.tolist(), labels.tolist(), strict=True)
        found = [self._after.get(pair) or self._ask(*pair) for pair in pairs]
        numbers = np.array([number for number, _ in found], np.int64)
        return numbers, np.array([score for _, score in found], np.float64)

    def _ask(self, number: int, label: int) -> tuple[int, float]:
        state = self._states[number]
        finish = label == _FINISH
        after, score = self._lm.finish(state) if finish else self._lm.score(state, label)
        answer = self._after[number, label] = (self._number(after), score)
        return answer

    def _number(self, state: Any) -> int:
        number = self._numbers.get(id(state))
        if number is None:
            self._made += 1
            number = self._numbers[id(state)] = self._made
            self._states[number] = state  # which keeps its identity its own
        return number

    def _forget_states(self) -> None:
        """No hypothesis can come back to a state that none is in."""
        alive = set(self._beam.state.tolist())
        self._after = {
            pair: after for pair, after in self._after.items() if {pair[0], after[0]} <= alive
        }
        self._states = {number: self._states[number] for number in alive}
        self._numbers = {id(state): number for number, state in self._states.items()}


class LexiconDecoder(_Decoder):
    """Words by their spellings; a language model scores whole words."""

    def __init__(
        self,
        options: LexiconDecoderOptions,
        trie: Trie,
        lm: Any,
        silence: int,
        blank: int,
        unknown: int = -1,
        transitions: Any = (),
        is_token_lm: bool = False,
    ) -> None:
        self._trie = trie
        self._nodes = len(trie.best)
        super().__init__(options, lm, silence, blank)

    def _candidates(self, row: np.ndarray, top: np.ndarray) -> _Beam:
        trie, now, options = self._trie, self._beam, self._options
        at_root = now.node == ROOT
        promised = np.where(at_root, 0.0, trie.best[now.node])
        child = trie.children[now.node[:, None], top]
        who, column = np.nonzero(child != NONE)
        token, node = top[column], child[who, column].astype(np.int64)
        heard = now.score[who] + row[token]
        again = token == now.token[who]

        on = (node < len(trie.children)) & (~again | now.blank[who])
        gain = options.lm_weight * (trie.best[node[on]] - promised[who[on]])
        onward = (heard[on] + gain, who[on], now.state[who[on]], node[on], token[on])

        # A word of one symbol is not said anew in each frame of it.
        counts = np.where(again & at_root[who], 0, trie.label_count[node])
        pair = np.repeat(np.arange(len(who)), counts)
        nth = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        label = trie.labels[trie.first_label[node[pair]] + nth]
        ended = who[pair]
        after, nats = self._scored(now.state[ended], label)
        gain = options.lm_weight * (nats - promised[ended]) + options.word_score
        over = (heard[pair] + gain, ended, after, np.full(len(pair), ROOT), token[pair])

        stays = np.flatnonzero(~now.blank | at_root)
        same = np.where(at_root, self._silence, now.token)[stays]
        lasting = (now.score[stays] + row[same], stays, now.state[stays], now.node[stays], same)

        every = np.arange(len(now.score))
        silent = np.full(len(every), self._blank)
        quiet = (now.score + row[self._blank], every, now.state, now.node, silent)

        parts = (onward, over, lasting, quiet)
        sizes = [len(part[0]) for part in parts]
        word = np.full(sum(sizes), _NO_WORD)
        word[sizes[0] : sizes[0] + sizes[1]] = label
        blank = np.arange(sum(sizes)) >= sum(sizes[:3])
        score, parent, state, node, token = map(np.concatenate, zip(*parts, strict=True))
        return _Beam(score, parent, state, node, token, word, blank)


class LexiconFreeDecoder(_Decoder):
    """Any symbols; a language model scores symbols."""

    _has_words = False

    def __init__(
        self,
        options: LexiconFreeDecoderOptions,
        lm: Any,
        silence: int,
        blank: int,
        transitions: Any = (),
    ) -> None:
        super().__init__(options, lm, silence, blank)

    def _candidates(self, row: np.ndarray, top: np.ndarray) -> _Beam:
        now = self._beam
        who = np.repeat(np.arange(len(now.score)), len(top))
        token = np.tile(top, len(now.score))
        score, state = now.score[who] + row[token], now.state[who]
        blank = token == self._blank
        new = ~blank & ((token != now.token[who]) | now.blank[who])
        state[new], said = self._scored(state[new], token[new])
        score[new] += self._options.lm_weight * said
        nowhere = np.full(len(who), ROOT)
        return _Beam(score, who, state, nowhere, token, np.full(len(who), _NO_WORD), blank)
