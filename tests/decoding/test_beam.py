import itertools

import numpy as np
import pytest
from beam_frames import (
    LETTERS,
    WIDE,
    WORDS,
    between,
    decode,
    frames,
    random_frames,
    search,
    text,
    write_arpa,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.decoding.beam import (
    CHECK_FRAMES,
    DISAGREEMENT_FRAMES,
    REST_FRAMES,
    BeamDecoder,
)
from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.search import BeamSearch
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError

# Small enough to try every path: blank, boundary, A, B.
SMALL = Vocabulary(("_", "|", "A", "B"))
CLOSED = Vocabulary(("_", "|", "A", "B"), lexicon=("A", "AB", "BA"))
LN_10 = np.log(10)


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    return write_arpa(tmp_path_factory.mktemp("lm") / "tiny.arpa")


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for s, before in zip(path, (None, *path), strict=False) if s not in (before, 0))


def exhaustive(log_probs, key, sums, score=lambda words: 0.0) -> str:
    """The best text of all: every path of symbols, taken together by what ``key`` makes of it."""
    totals: dict[object, float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        name = key(path)
        if name is None:
            continue
        one = float(log_probs[range(len(path)), path].astype(np.float64).sum())
        totals[name] = (np.logaddexp if sums else max)(totals.get(name, -np.inf), one)
    best = max(totals, key=lambda name: totals[name] + score(name))
    return best if isinstance(best, str) else SMALL.decode(best)


EVERYTHING = {"beam_size": 2000, "beam_threshold": WIDE}


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_characters_are_the_best_of_all_paths(seed, sums):
    log_probs = random_frames(seed, 6, 4, 1.0)
    # Between two boundaries, so that those at the edges make no difference.
    wanted = exhaustive(log_probs, lambda path: collapsed((1, *path, 1)), sums)
    searched = search(SMALL, sum_alignments=sums, **EVERYTHING)
    assert text(decode(searched, log_probs)) == wanted


def test_the_sum_over_paths_is_not_the_best_path():
    log_probs = np.log(np.array([[0.4, 0.01, 0.34, 0.25]] * 2)).astype(np.float32)
    assert text(decode(search(SMALL, sum_alignments=True), log_probs)) == "A"
    assert text(decode(search(SMALL), log_probs)) == ""
    assert GreedyDecoder(SMALL).feed(log_probs) == []


def lm_score(words: list[str], probabilities, backoffs) -> float:
    """log10 P(words </s> | <s>) of a bigram model, written down from its definition."""
    total = 0.0
    for before, word in itertools.pairwise(["<s>", *words, "</s>"]):
        if (before, word) in probabilities:
            total += probabilities[before, word]
        else:
            total += backoffs.get(before, 0.0) + probabilities.get((word,), -3.0)
    return total


SMALL_PROBABILITIES = {
    ("<unk>",): -3.0,
    ("</s>",): -0.9,
    ("A",): -0.3,
    ("AB",): -0.8,
    ("BA",): -0.6,
    ("<s>", "BA"): -0.2,
    ("A", "A"): -1.5,
    ("BA", "A"): -0.2,
    ("AB", "</s>"): -0.1,
}
SMALL_BACKOFFS = {"<s>": -0.5, "A": -0.1, "AB": -0.7, "BA": -0.4}


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_words_are_the_best_of_all_paths_and_the_language_model(tmp_path, seed, weight, sums):
    log_probs = random_frames(seed, 6, 4, 1.0)
    lm = write_arpa(tmp_path / "small.arpa", SMALL_PROBABILITIES, SMALL_BACKOFFS)

    def key(path):
        said = SMALL.decode(collapsed(path))
        return said if all(word in CLOSED.lexicon for word in said.split()) else None

    def score(said):
        words = said.split()
        lm = lm_score(words, SMALL_PROBABILITIES, SMALL_BACKOFFS)
        return weight * LN_10 * lm + 0.4 * len(words)

    weights = {"lm_weight": weight, "word_score": 0.4, "sum_alignments": sums}
    searched = search(CLOSED, lm=lm, **weights, **EVERYTHING)
    assert text(decode(searched, log_probs)) == exhaustive(log_probs, key, sums, score)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("vocabulary", [LETTERS, WORDS])
def test_a_beam_of_one_is_greedy_where_one_path_stands_out(seed, vocabulary):
    said = np.random.default_rng(seed).choice(list(vocabulary.symbols), 60)
    log_probs = frames(said.tolist(), vocabulary, sure=0.98)
    greedy = GreedyDecoder(vocabulary)
    wanted = greedy.feed(log_probs) + greedy.end()
    assert decode(search(vocabulary, beam_size=1), log_probs) == wanted


def test_the_language_model_decides_what_the_frames_leave_open(arpa):
    said = between(frames("AB|_A_B_|", sure=0.95), 6, B=0.48, C=0.52)
    assert text(decode(search(beam_size=20), said)) == "AB AC"
    # CAB would be likelier yet, but nobody said C.
    assert text(decode(search(lm=arpa, lm_weight=0.6), said)) == "AB AB"
    assert text(decode(search(lm=arpa, lm_weight=0.0), said)) == "AB AC"


def spoken(seed: int, length: int, blank: float, noise: float = 2.0) -> np.ndarray:
    """Random symbols, blanks among them more often and more likely by ``blank``, and noise."""
    shares = np.array([1 + blank, 2, 1, 1, 1])
    said = np.random.default_rng(seed).choice(5, length, p=shares / shares.sum())
    logits = noise * random_frames(seed, length, 5, 1.0) + 4.0 * np.eye(5)[said]
    logits[:, 0] += blank
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


KINDS = ["letters", "lexicon", "lm", "sums", "words", "hotword", "hotword and lm"]


@pytest.fixture(scope="module")
def searches(arpa):
    five = Vocabulary.words(["YES", "NO", "STOP", "GO"])
    return {
        "letters": search(),
        "lexicon": search(Vocabulary(LETTERS.symbols, lexicon=("AB", "CAB", "C"))),
        "lm": search(lm=arpa),
        "sums": search(lm=arpa, sum_alignments=True),
        "words": search(five),
        "hotword": search(hotwords=("BAC",)),
        "hotword and lm": search(lm=arpa, hotwords=("BAC", "C AB")),
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 700), st.floats(0, 6), st.data())
def test_frames_in_any_portions_give_the_same_words(searches, kind, seed, length, blank, data):
    log_probs = spoken(seed, length, blank)
    sizes = data.draw(st.lists(st.integers(0, 40), max_size=30))
    words = decode(searches[kind], log_probs)
    assert decode(searches[kind], log_probs, *sizes) == words
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.start < word.end for word in words)
    assert all(0 <= time <= length * 0.02 + 1e-9 for time in times)
    assert all(0 <= word.confidence <= 1 for word in words)


def test_another_weight_changes_the_words(arpa):
    log_probs = spoken(3, 200, 0.0)
    heavy = search(lm=arpa, lm_weight=3.0)
    assert decode(search(lm=arpa), log_probs) != decode(heavy, log_probs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "noise"), [(0, 0.5), (1, 1.0), (2, 1.0)])
def test_giving_words_early_changes_nothing(searches, kind, seed, noise, monkeypatch):
    """flashlight-text by itself, all frames at once and nothing forgotten, finds the same."""
    searched = searches[kind]
    log_probs, symbols = spoken(seed, 1000, 0.0, noise), searched.vocabulary
    monkeypatch.setattr("rdsdk.decoding.beam.DISAGREEMENT_FRAMES", 10**9)
    decoder = BeamDecoder(searched)
    early = decoder.feed(log_probs)
    rows = [*log_probs]
    if symbols.boundary_id is not None:
        rows.append(np.where(np.arange(5) == symbols.boundary_id, 0, -1e4).astype(np.float32))
    whole = searched.new()
    rows = np.ascontiguousarray(rows, np.float32)
    best = max(whole.decode(rows.ctypes.data, *rows.shape), key=lambda one: one.score)
    path = best.tokens[1:-1]
    kept = [s for before, s in zip([None, *path], path, strict=False) if s != before]
    assert text(early + decoder.end()) == symbols.decode(kept)


@pytest.mark.parametrize("kind", ["lexicon", "lm", "hotword"])
def test_words_are_given_while_someone_speaks(searches, kind):
    said = "_AB|_C_A_B_|__AB_|CAB|" * 30
    decoder, given = BeamDecoder(searches[kind]), []
    for at in range(0, len(said), 22):
        given += decoder.feed(frames(said[at : at + 22], sure=0.99))
        latest = given[-1].end if given else 0.0
        assert decoder.seconds - latest < 0.02 * (DISAGREEMENT_FRAMES + CHECK_FRAMES)
    assert 100 < len(given) < 120
    assert text(given + decoder.end()) == " ".join(["AB", "CAB"] * 60)


def test_words_that_were_given_are_the_beginning_of_what_comes(searches):
    log_probs, decoder, given = spoken(1, 300, 0.0), BeamDecoder(searches["lm"]), []
    for row in log_probs[:, None]:
        given += decoder.feed(row)
        open_words = decoder.unfinished()
        if given and open_words:
            assert open_words[0].start >= given[-1].end
    assert given + decoder.end() == decode(searches["lm"], log_probs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blank", [0.0, 3.0, 9.0])
def test_an_endless_stream_stays_small(searches, kind, blank):
    decoder, most, hypotheses = BeamDecoder(searches[kind]), 0, 0
    for seed in range(12):
        decoder.feed(spoken(seed, 500, blank))
        most = max(most, decoder.kept_frames)
        hypotheses = max(hypotheses, len(decoder._decoder.get_all_final_hypothesis()))
    assert most < DISAGREEMENT_FRAMES + CHECK_FRAMES
    assert hypotheses <= 50


def test_silence_alone_is_not_kept(searches):
    decoder = BeamDecoder(searches["lm"])
    for _ in range(100):
        assert decoder.feed(frames(100 * "_")) == []
        assert decoder.kept_frames < 2 * REST_FRAMES
        assert decoder.open_seconds is None
    assert decoder.end() == []
    assert decoder.seconds == 200.0


def test_hypotheses_that_never_agree_are_settled():
    """Every frame says A or B alike, and no boundary comes: nothing is ever certain."""
    undecided = np.log(np.array([[0.2, 0.02, 0.38, 0.39, 0.01]] * 3000)).astype(np.float32)
    decoder = BeamDecoder(search(beam_threshold=WIDE))
    words = decoder.feed(undecided)
    assert decoder.settled >= 3000 // (DISAGREEMENT_FRAMES + CHECK_FRAMES)
    assert len(words) == decoder.settled
    assert decoder.kept_frames <= DISAGREEMENT_FRAMES


def test_words_are_given_after_a_rest_though_nothing_ends_them(searches):
    decoder = BeamDecoder(searches["lm"])
    assert decoder.feed(frames("_AB" + 60 * "_", sure=0.9999)) == []
    assert [word.text for word in decoder.unfinished()] == ["AB"]
    (word,) = decoder.feed(frames(80 * "_", sure=0.9999))
    assert (word.text, word.start, word.end) == ("AB", 0.02, 0.06)
    assert decoder.unfinished() == decoder.end() == []


def test_a_forced_end_does_not_read_the_rest_of_a_run_as_a_new_word():
    decoder = BeamDecoder(search())
    decoder.feed(frames("AB"))
    assert [word.text for word in decoder.end()] == ["AB"]
    decoder.feed(frames("BB"))
    assert decoder.end() == []
    decoder.feed(frames("_B|"))
    assert [word.text for word in decoder.end()] == ["B"]


def test_what_is_open_is_known_as_by_a_greedy_decoder():
    decoder = BeamDecoder(search())
    assert (decoder.open_seconds, decoder.last_symbol_seconds) == (None, None)
    assert decoder.between_words
    decoder.feed(frames("__AB"))
    assert (decoder.open_seconds, decoder.last_symbol_seconds) == (0.04, 0.08)
    assert not decoder.between_words
    decoder.feed(frames("|"))
    assert decoder.between_words
    decoder.reset()
    assert (decoder.open_seconds, decoder.seconds) == (None, 0.0)


def test_frames_of_another_vocabulary_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 4\).*\(T, 5\)"):
        BeamDecoder(search()).feed(np.zeros((3, 4), np.float32))


def test_log_probs_that_are_no_numbers_are_refused_and_reset_goes_on():
    decoder = BeamDecoder(search())
    with pytest.raises(ModelError, match="not numbers"):
        decoder.feed(np.full((20, 5), np.nan, np.float32))
    decoder.reset()
    decoder.feed(frames("_AB_"))
    assert text(decoder.end()) == "AB"


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam_size": 0},
        {"symbols_per_frame": 0},
        {"beam_threshold": 0.0},
        {"lm_weight": -1.0},
        {"lm_weight": float("nan")},
        {"hotword_boost": -1.0},
        {"word_score": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        BeamSettings(**wrong)


def test_one_search_serves_many_decoders_at_once(searches):
    texts = {}
    decoders = {seed: BeamDecoder(searches["lm"]) for seed in range(4)}
    for at in range(0, 200, 10):
        for seed, decoder in decoders.items():
            texts.setdefault(seed, []).extend(decoder.feed(spoken(seed, 200, 0.0)[at : at + 10]))
    for seed, decoder in decoders.items():
        assert texts[seed] + decoder.end() == decode(searches["lm"], spoken(seed, 200, 0.0))


def test_the_lexicon_closes_a_vocabulary_of_whole_words():
    some = Vocabulary(WORDS.symbols, 0, None, lexicon=("YES", "NO"))
    said = frames(["STOP", "YES", "<blank>", "NO"], some, sure=0.6)
    assert text(decode(search(WORDS), said)) == "STOP YES NO"
    assert "STOP" not in text(decode(BeamSearch(some), said))


def test_a_search_that_begins_anew_knows_the_words_before(arpa):
    """After AB the language model expects CAB; the frames leave open which of two it is."""
    said = between(frames("CA_B|", sure=0.97), 3, B=0.45, _=0.55)
    said = between(said, 0, C=0.3, _=0.7)
    texts = []
    for context in ([], [tuple(LETTERS.encode("AB"))]):
        decoder = BeamDecoder(search(lm=arpa, lm_weight=1.0))
        decoder._context = context
        decoder._begin([])
        assert decoder.unfinished() == []
        texts.append(text(decoder.feed(said) + decoder.end()))
    assert texts == ["AB", "CAB"]
