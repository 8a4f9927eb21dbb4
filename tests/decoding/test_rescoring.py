"""Words weighed again by a language model that remembers all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from beam_frames import decode, random_frames, text
from hypothesis import given, settings
from hypothesis import strategies as st
from rnnlm_stand_in import DrawnRnnLm
from test_pronunciation import (
    BACKOFFS,
    EVERYTHING,
    LN_10,
    PHONES,
    PROBABILITIES,
    WAYS,
    files,  # noqa: F401  (a fixture)
    readings,
    said,
    summed_readings,
)

from rdsdk.decoding import search as searching
from rdsdk.decoding.beam import DISAGREEMENT_FRAMES, BeamDecoder
from rdsdk.decoding.lattice import Arc
from rdsdk.decoding.rescoring import PATIENCE_FRAMES, Rescorer
from rdsdk.decoding.search import BeamSearch
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError

Ngram = tuple[str, ...]
NOTHING = np.zeros(0)


class TwoModels:
    """Words by the one before them, and by all of them."""

    def __init__(self, seed: int, share: float) -> None:
        self.seed = seed
        self.share = share
        self.told: list[int] = []

    def start(self) -> int:
        return -1

    def ngram(self, state: int, label: int) -> tuple[int, float]:
        return label, float(np.random.default_rng([self.seed, state + 1, label]).normal(0, 2))

    def fresh(self) -> tuple[int, ...]:
        return ()

    def expected(self, history: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([self.seed, 9, *history]).normal(0, 2, 10)

    def end_of_sentence(self, state: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
        return (*state, 9), self.expected((*state, 9))

    def advance(self, labels, states):
        self.told.append(len(labels))
        histories = [(*state, label) for label, state in zip(labels, states, strict=True)]
        return [(history, self.expected(history)) for history in histories]

    def combined(self, ngram: float, expected: np.ndarray, label: int) -> float:
        return (1 - self.share) * ngram + self.share * float(expected[label])

    def of(self, labels: tuple[int, ...]) -> float:
        total, state, history = 0.0, self.start(), (9,)
        for label in labels:
            state, ngram = self.ngram(state, label)
            total += self.combined(ngram, self.expected(history), label)
            history = (*history, label)
        return total


def arc(label: int, start: int, end: int, score: float = 0.0) -> Arc:
    return Arc(label, start, end, score, NOTHING, NOTHING)


def lattice(seed: int) -> list[Arc]:
    """Words of one or two frames, several for each place, over six frames."""
    draw = np.random.default_rng([seed, 77])
    places = [(s, s + n) for s in range(6) for n in (1, 2) if s + n <= 6]
    arcs = [arc(label, *place, draw.normal(0, 1)) for place in places for label in range(3)]
    return sorted(arcs, key=lambda one: one.end)


def best_of_all(arcs: list[Arc], models: TwoModels) -> tuple[int, ...]:
    ways: list[tuple[tuple[int, ...], float]] = []

    def walk(frame: int, labels: tuple[int, ...], score: float) -> None:
        if frame == 6:
            ways.append((labels, score + models.of(labels)))
        for one in arcs:
            if one.start == frame:
                walk(one.end, (*labels, one.label), score + one.score)

    walk(0, (), 0.0)
    return max(ways, key=lambda way: way[1])[0]


def heard(arcs: list[Arc], models: TwoModels, width: int = 10_000) -> tuple[int, ...]:
    rescorer = Rescorer(models, width)  # type: ignore[arg-type]
    given = []
    for end in range(1, 7):
        # The search may be at any frame yet, but for the last time.
        tails = dict.fromkeys(range(end + 1), 0.0) if end < 6 else {6: 0.0}
        rescorer.hear([one for one in arcs if one.end == end], tails)
        if end < 6:
            given += rescorer.decide(start=0, now=end)
    return tuple(one.label for one in (*given, *rescorer.finish()))


@pytest.fixture(autouse=True)
def _keep_all(monkeypatch):
    monkeypatch.setattr("rdsdk.decoding.rescoring._BEHIND", 1e9)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_words_are_the_best_of_all_ways_through_the_lattice(seed, share):
    arcs, models = lattice(seed), TwoModels(seed, share)
    assert heard(arcs, models) == best_of_all(arcs, models)


def test_another_share_and_a_narrow_search_find_other_words():
    found = {
        share: [heard(lattice(seed), TwoModels(seed, share)) for seed in range(4)]
        for share in (0.0, 1.0)
    }
    assert found[0.0] != found[1.0]
    narrow = [heard(lattice(seed), TwoModels(seed, 1.0), width=1) for seed in range(4)]
    assert narrow != found[1.0]


def test_a_history_is_asked_for_once_whatever_its_frames():
    models = TwoModels(0, 0.5)
    rescorer = Rescorer(models, 100)  # type: ignore[arg-type]
    rescorer.hear([arc(1, 0, end) for end in (3, 4, 5)], {5: 0.0})
    rescorer.hear([arc(2, start, 9) for start in (3, 4, 5)], {9: 0.0})
    assert models.told == [1]


def test_a_word_is_given_when_all_histories_agree_on_it():
    rescorer = Rescorer(TwoModels(0, 0.5), 100)  # type: ignore[arg-type]
    rescorer.hear([arc(1, 0, 3), arc(2, 3, 6), arc(3, 3, 6)], {3: -100.0, 6: 0.0})
    assert [one.label for one in rescorer.decide(0, 6)] == [1]
    assert rescorer.best()[0].label in (2, 3)
    # Only one of the two leads to where the search goes on.
    rescorer.hear([arc(4, 6, 9)], {9: 0.0})
    assert rescorer.decide(0, 9) == []
    rescorer.begin(9)
    assert len(rescorer.finish()) == 2


def test_after_long_disagreement_the_best_is_followed_but_for_its_last_second():
    rescorer = Rescorer(TwoModels(3, 0.5), 100)  # type: ignore[arg-type]
    long = PATIENCE_FRAMES + 20
    arcs = [arc(1, 0, 10), arc(2, 0, 10), arc(3, 10, 30), arc(4, 30, long - 10)]
    rescorer.hear(arcs, {long - 10: 0.0})
    wanted = [one.label for one in rescorer.best()]
    given = [one.label for one in rescorer.decide(0, long)]
    assert given == wanted[:2]
    assert [one.label for one in rescorer.finish()] == wanted[2:]


def test_where_no_history_leads_the_search_is_followed():
    rescorer = Rescorer(TwoModels(0, 0.5), 100)  # type: ignore[arg-type]
    rescorer.hear([arc(1, 0, 3)], {3: 0.0})
    assert [one.label for one in rescorer.decide(0, 3)] == [1]
    rescorer.hear([], {7: 0.0})
    assert not rescorer.is_alive
    rescorer.follow([arc(5, 0, 3), arc(6, 3, 7)], {7: 0.0})
    assert rescorer.is_alive
    assert [one.label for one in rescorer.finish()] == [6]  # not what was given already


def test_what_was_given_is_forgotten():
    rescorer = Rescorer(TwoModels(0, 0.5), 5)  # type: ignore[arg-type]
    given = 0
    for n in range(300):
        start = 3 * n
        rescorer.hear([arc(label, start, start + 3) for label in (1, 2)], {start + 3: 0.0})
        given += len(rescorer.decide(start, start + 3))
    assert given > 200
    history, steps = rescorer._leading()[0], 0
    while history.parent is not None:
        history, steps = history.parent, steps + 1
    assert steps < 100
    assert len(rescorer._nodes) < 5


# From here on through a whole decoder.


@pytest.fixture
def made(files, monkeypatch) -> Callable[..., BeamSearch]:  # noqa: F811
    def make(share: float = 0.5, hotwords: tuple[str, ...] = (), **wanted: object) -> BeamSearch:
        model = DrawnRnnLm([word for word in WAYS if word != "NOON"])
        monkeypatch.setattr(searching, "load_rnnlm", lambda path: model)
        settings = BeamSettings(
            **files,
            rnnlm="drawn",
            rnnlm_share=share,
            **wanted,  # type: ignore[arg-type]
        )
        return BeamSearch(PHONES, settings, hotwords)

    return make


def ngram_nats(words: tuple[str, ...]) -> list[float]:
    nats, before = [], "<s>"
    for word in words:
        pair = PROBABILITIES.get((before, word))
        alone = BACKOFFS.get(before, 0.0) + PROBABILITIES[(word,)]
        nats.append(LN_10 * (alone if pair is None else pair))
        before = word
    return nats


def rnnlm_nats(words: tuple[str, ...]) -> list[float]:
    model, history, nats = DrawnRnnLm([word for word in WAYS if word != "NOON"]), (0,), []
    for word in words:
        # NOON is the only word that it does not know: all of what is left for those.
        nats.append(float(model.after(history)[model.index(word)]))
        history = (*history, model.index(word))
    return nats


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_words_are_the_best_of_all_paths_and_both_models(made, seed, share, sums):
    log_probs = random_frames(seed, 6, 4, 1.5)
    weight, each = 1.5, 2.0

    def total(words: tuple[str, ...], score: float) -> float:
        both = zip(ngram_nats(words), rnnlm_nats(words), strict=True)
        return score + sum(weight * ((1 - share) * a + share * b) + each for a, b in both)

    fits = (summed_readings if sums else readings)(log_probs)
    wanted = max(fits, key=lambda words: total(words, fits[words]))
    weights = {"lm_weight": weight, "word_score": each, "sum_alignments": sums}
    found = decode(made(share, **weights, **EVERYTHING), log_probs)
    assert text(found) == " ".join(wanted)


def test_sums_change_the_words(made):
    found = {
        sums: [
            text(
                decode(made(0.5, lm_weight=1.0, sum_alignments=sums), random_frames(seed, 8, 4, 1))
            )
            for seed in range(12)
        ]
        for sums in (False, True)
    }
    assert found[False] != found[True]


def test_the_recurrent_model_changes_the_words(made):
    found = {
        share: [
            text(decode(made(share, lm_weight=1.5, word_score=2.0), random_frames(seed, 6, 4, 1.5)))
            for seed in range(6)
        ]
        for share in (0.0, 1.0)
    }
    assert found[0.0] != found[1.0]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 70), max_size=12),
)
def test_portions_change_nothing(files, seed, sizes):  # noqa: F811
    model = DrawnRnnLm(list(WAYS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "load_rnnlm", lambda path: model)
        weights = {"beam_size": 200, "lm_weight": 1.0, "word_score": 1.0}
        searched = BeamSearch(PHONES, BeamSettings(**files, rnnlm="drawn", **weights))
        log_probs = random_frames(seed, 400, 4, 2.0)
        assert decode(searched, log_probs, *sizes) == decode(searched, log_probs)


def test_words_keep_their_times_and_what_was_given_stays(made):
    spoken = "__tttuu__nnuu" * 60 + "____"
    decoder = BeamDecoder(made(0.5, lm_weight=0.5))
    words, shown = [], []
    for row in said(spoken):
        words += decoder.feed(row[None])
        shown.append(len(words) + len(decoder.unfinished()))
    words += decoder.end()
    assert len(words) == 120
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(0 < word.end - word.start <= 0.2 for word in words)
    assert (words[1].start, words[1].end) == (0.18, 0.26)
    assert all(0 < word.confidence <= 1 for word in words)
    # A word is shown about when it ends, long before it is given.
    assert shown[13 * 30] in range(58, 62)
    assert decoder.open_seconds is None


def test_with_no_share_words_and_times_are_those_of_the_search(made, files):  # noqa: F811
    log_probs = said("__tttuu__nnuu___ttuu_nnuunn__" * 15)
    alone = BeamSearch(PHONES, BeamSettings(**files, lm_weight=0.5, beam_size=200))
    weighed = made(0.0, lm_weight=0.5, beam_size=200)
    assert decode(weighed, log_probs) == decode(alone, log_probs)
    other = made(1.0, lm_weight=4.0, beam_size=200)
    assert text(decode(other, log_probs)) != text(decode(alone, log_probs))


def test_what_is_kept_back_is_open(made):
    decoder = BeamDecoder(made(0.5, lm_weight=0.5))
    given = decoder.feed(said("__tttuu__nnuu___"))
    first, *_ = decoder.unfinished()
    assert given == []
    assert first.text in ("TO", "TWO")
    assert decoder.open_seconds == first.start
    assert decoder.last_symbol_seconds is not None
    assert len(decoder.end()) == 2
    assert decoder.open_seconds is None
    assert decoder.unfinished() == []


def test_an_endless_stream_stays_small(made):
    decoder = BeamDecoder(made(0.5, lm_weight=0.5))
    given = 0
    for seed in range(20):
        given += len(decoder.feed(random_frames(seed, 200, 4, 1.0)))
        assert decoder.kept_frames <= DISAGREEMENT_FRAMES + 50
    assert given > 100


def test_hotwords_of_several_words_are_found_whole(made):
    spoken = said("__nnuu__ttuu__nnuunn__")
    found = decode(made(0.5, hotwords=("NEW TWO",), lm_weight=0.5), spoken)
    assert text(found) == "NEW TWO NOON"
    long = np.concatenate([spoken] * 20)
    searched = made(0.5, hotwords=("NEW TWO", "NOON NEW"), lm_weight=0.5)
    assert len(decode(searched, long)) == len(decode(searched, long, 7, 100)) == 60


def test_a_sentence_before_is_remembered(made):
    searched = made(1.0, lm_weight=1.5, word_score=2.0, **EVERYTHING)
    first, second = random_frames(1, 6, 4, 1.5), random_frames(2, 6, 4, 1.5)
    fits = readings(second)
    decoder = BeamDecoder(searched)
    decoder.feed(first)
    before = tuple(word.text for word in decoder.end())
    decoder.feed(second)
    found = tuple(word.text for word in decoder.end())
    model = DrawnRnnLm([word for word in WAYS if word != "NOON"])
    start = (0, *(model.index(word) for word in before), 0)

    def total(words: tuple[str, ...]) -> float:
        score, history = fits[words], start
        for word in words:
            score += 1.5 * float(model.after(history)[model.index(word)]) + 2.0
            history = (*history, model.index(word))
        return score

    assert found == max(fits, key=total)


@pytest.mark.parametrize("missing", ["lm", "lexicon"])
def test_it_needs_what_finds_the_words(files, missing):  # noqa: F811
    rest = {name: path for name, path in files.items() if name != missing}
    with pytest.raises(ConfigError, match="give lm and lexicon too"):
        BeamSettings(**rest, rnnlm="x.rnnlm")  # type: ignore[arg-type]
