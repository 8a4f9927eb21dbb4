"""Hotwords: names and terms that a search should expect.

Both classes below are language models to the search. Theirs are natural logarithms, already
weighted, so a decoder that uses them has an ``lm_weight`` of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rdsdk.decoding.language_model import search_library

_decoder: Any = search_library()


class BoostedWords(_decoder.LM):
    """A word language model with a boost for some of its labels.

    Args:
        inner: scores words by their label.
        scale: nats for one unit of the inner score.
        boosts: nats for each boosted label.
        parts: labels of the words of a hotword of several words, which the inner model scores.
    """

    def __init__(
        self,
        inner: Any,
        scale: float,
        boosts: Mapping[int, float],
        parts: Mapping[int, Sequence[int]],
    ) -> None:
        super().__init__()
        self._inner = inner
        self._scale = scale
        self._boosts = dict(boosts)
        self._parts = {label: tuple(labels) for label, labels in parts.items()}

    def start(self, start_with_nothing: bool) -> Any:
        return self._inner.start(start_with_nothing)

    def score(self, state: Any, label: int) -> tuple[Any, float]:
        total = 0.0
        for part in self._parts.get(label, (label,)):
            state, score = self._inner.score(state, part)
            total += score
        return state, self._scale * total + self._boosts.get(label, 0.0)

    def finish(self, state: Any) -> tuple[Any, float]:
        state, score = self._inner.finish(state)
        return state, self._scale * score


class BoostedSpellings(_decoder.LM):
    """A symbol language model that knows nothing but the spellings of some hotwords.

    Each symbol of a spelling earns its boost at once, so that a hotword is not dropped before it is
    complete; what was earned is taken back when the word goes on otherwise. A spelling begins at a
    word's beginning and counts when a word ends with it.

    Its states are the places in the spellings, so a search with it must take the likeliest
    alignment (no sum), as it merges hypotheses that are at the same place.

    Args:
        spellings: symbol ids of each hotword, with the boundary between words.
        boost: nats for each symbol.
        boundary: the id of the word boundary.
    """

    def __init__(self, spellings: Iterable[Sequence[int]], boost: float, boundary: int) -> None:
        super().__init__()
        self._boundary = boundary
        # Place 0 is the beginning of a word, place 1 inside a word that is no hotword.
        self._next: list[dict[int, int]] = [{}, {}]
        self._earned = [0.0, 0.0]
        self._is_end = [False, False]
        spellings = [tuple(spelling) for spelling in spellings]
        for spelling in spellings:
            self._add(spelling, boost)
        # Of what was earned, the part that stays: of a hotword that this one begins with.
        self._kept = [0.0] * len(self._next)
        self._keep(0, 0.0)
        # Where to go on when a hotword of several words does not: in one that began later.
        self._otherwise = [1] * len(self._next)
        for spelling in spellings:
            self._link(spelling)
        self._states = [_decoder.LMState() for _ in self._next]
        self._places = {id(state): place for place, state in enumerate(self._states)}

    def start(self, start_with_nothing: bool) -> Any:
        return self._states[0]

    def score(self, state: Any, symbol: int) -> tuple[Any, float]:
        place, total = self._places[id(state)], 0.0
        while symbol not in self._next[place] and place > 1:
            if symbol == self._boundary and self._is_end[place]:
                return self._states[0], total
            otherwise = self._otherwise[place]
            total += self._kept[place] - self._earned[place] + self._earned[otherwise]
            place = otherwise
        after = self._next[place].get(symbol, 0 if symbol == self._boundary else 1)
        return self._states[after], total + self._earned[after] - self._earned[place]

    def finish(self, state: Any) -> tuple[Any, float]:
        place, total = self._places[id(state)], 0.0
        while not self._is_end[place] and place > 1:
            otherwise = self._otherwise[place]
            total += self._kept[place] - self._earned[place] + self._earned[otherwise]
            place = otherwise
        return self._states[0], total

    def _add(self, spelling: Sequence[int], boost: float) -> None:
        place = 0
        for number, symbol in enumerate(spelling, 1):
            if symbol not in self._next[place]:
                self._next[place][symbol] = len(self._next)
                self._next.append({})
                self._earned.append(0.0)
                self._is_end.append(False)
            place = self._next[place][symbol]
            self._earned[place] = boost * number
        self._is_end[place] = True

    def _keep(self, place: int, kept: float) -> None:
        self._kept[place] = kept
        for symbol, after in self._next[place].items():
            whole = symbol == self._boundary and self._is_end[place]
            self._keep(after, self._earned[place] if whole else kept)

    def _link(self, spelling: Sequence[int]) -> None:
        for length in range(1, len(spelling) + 1):
            here, place = spelling[:length], self._place(spelling[:length])
            assert place is not None
            begins = [at + 1 for at, symbol in enumerate(here) if symbol == self._boundary]
            later = (self._place(here[begin:]) for begin in begins)
            self._otherwise[place] = next((one for one in later if one is not None), 1)

    def _place(self, spelling: Sequence[int]) -> int | None:
        place = 0
        for symbol in spelling:
            if symbol not in self._next[place]:
                return None
            place = self._next[place][symbol]
        return place
