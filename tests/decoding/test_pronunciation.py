"""Words out of phones: a pronouncing lexicon, a language model, and a symbol that ends words."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from beam_frames import WIDE, decode, frames, random_frames, text, write_arpa
from hypothesis import given, settings
from hypothesis import strategies as st
from test_beam import lm_score

from rdsdk.decoding.beam import CHECK_FRAMES, DISAGREEMENT_FRAMES, BeamDecoder
from rdsdk.decoding.pronunciation import in_symbols, read_dictionary
from rdsdk.decoding.search import ONE_BREATH, BeamSearch, shared_search
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

LN_10 = np.log(10)
PHONES = Vocabulary.words(["T", "UW", "N"])  # the blank is symbol 0
LEXICON = """;;; a comment
to T UW1
TO(2) T
TWO T UW0
NEW N UW
noon N UW N
"""
WAYS = {
    "TO": [(1, 2), (1,)],
    "TWO": [(1, 2)],
    "NEW": [(3, 2)],
    "NOON": [(3, 2, 3)],
}
PROBABILITIES = {
    ("<unk>",): -3.0,
    ("</s>",): -0.9,
    ("TO",): -0.5,
    ("TWO",): -0.6,
    ("NEW",): -0.9,
    ("NOON",): -0.8,
    ("QUIET",): -0.4,  # nobody knows how it is said
    ("<s>", "NEW"): -0.2,
    ("NEW", "TWO"): -0.2,
    ("TO", "NOON"): -0.3,
    ("TWO", "</s>"): -0.2,
}
# All pairs, each with a probability of its own: homophones that change places would else score
# alike, and which of two equals is found is left to chance.
_DRAWN = np.random.default_rng(0).uniform(-1.5, -0.3, len(WAYS) ** 2).round(5)
_PAIRS = itertools.product(WAYS, repeat=2)
PROBABILITIES = {**dict(zip(_PAIRS, map(float, _DRAWN), strict=True)), **PROBABILITIES}
BACKOFFS = {"<s>": -0.5, "TO": -0.1, "TWO": -0.4, "NEW": -0.7, "NOON": -0.2, "QUIET": 0.0}
EVERYTHING = {"beam_size": 3000, "beam_threshold": WIDE}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phones")
    (folder / "lexicon.txt").write_text(LEXICON)
    return {
        "lexicon": folder / "lexicon.txt",
        "lm": write_arpa(folder / "tiny.arpa", PROBABILITIES, BACKOFFS),
    }


def search(
    files: dict[str, Path], hotwords: tuple[str, ...] = (), lm: bool = True, **wanted: object
) -> BeamSearch:
    paths = files if lm else {"lexicon": files["lexicon"]}
    return BeamSearch(PHONES, BeamSettings(**paths, **wanted), hotwords)  # type: ignore[arg-type]


def said(path: str) -> np.ndarray:
    """Frames that say t, u, n or nothing."""
    names = {"_": "<blank>", "t": "T", "u": "UW", "n": "N"}
    return frames([names[one] for one in path], PHONES, sure=0.97)  # type: ignore[arg-type]


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for s, before in zip(path, (None, *path), strict=False) if s not in (before, 0))


def words_on(path: tuple[int, ...]) -> list[tuple[str, ...]]:
    """All the words that a path of phones and ends of words (4) says; none if it says no words."""
    *parts, rest = " ".join(map(str, path)).split("4")
    spoken = [collapsed(tuple(map(int, part.split()))) for part in parts]
    if collapsed(tuple(map(int, rest.split()))):
        return []
    choices = [[word for word, ways in WAYS.items() if part in ways] for part in spoken]
    return list(itertools.product(*choices))


def rows_of(log_probs: np.ndarray) -> np.ndarray:
    """Phones, and what ends a word (4), which scores as the blank, or as the frame before; and one
    row more, as behind the last frame a word may end, and nothing else happens."""
    likeliest = [0, *log_probs.argmax(axis=1)]
    pairs = zip(log_probs, likeliest, strict=False)
    end = [max(row[0], row[before] - ONE_BREATH) for row, before in pairs]
    rows = np.concatenate([log_probs, np.array(end)[:, None]], axis=1)
    return np.concatenate([rows, [[0.0, -1e4, -1e4, -1e4, 0.0]]])


def readings(log_probs: np.ndarray) -> dict[tuple[str, ...], float]:
    """All words of all paths, and how well they fit."""
    rows = rows_of(log_probs)
    best: dict[tuple[str, ...], float] = {}
    for path in itertools.product(range(5), repeat=len(rows)):
        if path[-1] not in (0, 4):
            continue
        for words in words_on(path):
            score = float(rows[range(len(rows)), path].sum())
            best[words] = max(best.get(words, -np.inf), score)
    return best


def summed_readings(log_probs: np.ndarray) -> dict[tuple[str, ...], float]:
    """All words, and how well they fit: each by all alignments to the frames where it lies, of the
    pronunciation that has the best one; the frames behind them all say nothing."""
    rows = rows_of(log_probs)
    last = len(rows) - 1  # behind the last frame a word may end, and nothing else happens

    def fit(word: str, first: int, end: int) -> float:
        ways: dict[tuple[int, ...], list[float]] = {way: [] for way in WAYS[word]}
        for path in itertools.product(range(4), repeat=end - first):
            if (way := collapsed(path)) in ways:
                ways[way].append(float(rows[range(first, end), path].sum()))
        fitting = [scores for scores in ways.values() if scores]
        if not fitting:
            return -np.inf
        return float(np.logaddexp.reduce(max(fitting, key=max)) + rows[end, 4])

    known = {
        (word, first, end): fit(word, first, end)
        for word in WAYS
        for first in range(last)
        for end in range(first + 1, last + 1)
    }
    best: dict[tuple[str, ...], float] = {}

    def walk(first: int, words: tuple[str, ...], score: float) -> None:
        whole = score + float(rows[first:, 0].sum())
        best[words] = max(best.get(words, -np.inf), whole)
        for word, begin, end in known:
            if begin == first and known[word, begin, end] > -100:
                walk(end + 1, (*words, word), score + known[word, begin, end])

    walk(0, (), 0.0)
    return best


def exhaustive(log_probs: np.ndarray, weight: float, word_score: float) -> str:
    """The best words of all paths."""
    best = readings(log_probs)

    def total(words: tuple[str, ...]) -> float:
        lm = lm_score(list(words), PROBABILITIES, BACKOFFS)
        return best[words] + weight * LN_10 * lm + word_score * len(words)

    return " ".join(max(best, key=total))


@pytest.mark.parametrize("weight", [0.3, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_words_are_the_best_of_all_paths_and_the_language_model(files, seed, weight):
    log_probs = random_frames(seed, 6, 4, 1.5)
    wanted = exhaustive(log_probs, weight, 2.0)
    found = decode(search(files, lm_weight=weight, word_score=2.0, **EVERYTHING), log_probs)
    assert text(found) == wanted


def test_another_weight_changes_the_words(files):
    found = {
        weight: [
            text(decode(search(files, lm_weight=weight, word_score=2.0), random_frames(seed, 6, 4)))
            for seed in range(5)
        ]
        for weight in (0.3, 1.5)
    }
    assert found[0.3] != found[1.5]


def test_a_phone_may_last_and_words_may_follow_in_one_breath(files):
    (word,) = decode(search(files), said("__nnuuuu__"))
    assert (word.text, word.start, word.end) == ("NEW", 0.04, 0.16)
    first, second = decode(search(files), said("__nnuuuuttuuu___"))
    # What ends a word takes the place of one frame between the two.
    assert (first.text, second.text) == ("NEW", "TWO")
    assert (first.start, second.end) == (0.04, 0.26)
    assert first.end <= second.start <= first.end + 0.04


def test_the_language_model_tells_homophones_apart(files):
    assert text(decode(search(files), said("_nu_tu__"))) == "NEW TWO"
    assert text(decode(search(files), said("_tu_nun__"))) == "TO NOON"


def test_without_a_language_model_the_words_of_the_lexicon_come_out_in_capitals(files):
    assert text(decode(search(files, lm=False), said("_nun__nu__"))) == "NOON NEW"


def test_words_that_are_unknown_to_the_lexicon_never_come_out(files):
    assert "QUIET" not in {part for one in search(files)._spoken for part in one}


def spoken(seed: int, length: int) -> np.ndarray:
    """Words of the lexicon with silence of any length between them, and noise."""
    rng = np.random.default_rng(seed)
    path = ""
    while len(path) < length:
        word = rng.choice(["tu", "nu", "nun", "t"])
        path += "".join(phone * int(rng.integers(1, 4)) for phone in word)
        path += "_" * int(rng.integers(0, 40 if rng.random() < 0.2 else 4))
    clean = said(path[:length]) if length else np.zeros((0, 4), np.float32)
    logits = clean + rng.normal(0, 1.0, clean.shape)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def searches(files):
    # So wide that no two that score alike stand at its edge: with 50, which of them stayed was now
    # and then left to chance, portions or not.
    return {
        "lm": search(files, beam_size=200),
        "lexicon": search(files, lm=False, beam_size=200),
        "hotword": search(files, hotwords=("New Noon",), beam_size=200),
    }


@pytest.mark.parametrize("kind", ["lm", "lexicon", "hotword"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 700), st.data())
def test_frames_in_any_portions_give_the_same_words(searches, kind, seed, length, data):
    log_probs = spoken(seed, length)
    sizes = data.draw(st.lists(st.integers(0, 40), max_size=30))
    words = decode(searches[kind], log_probs)
    assert decode(searches[kind], log_probs, *sizes) == words
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.text and word.start < word.end for word in words)
    assert all(0 <= word.confidence <= 1 for word in words)


@pytest.mark.parametrize("kind", ["lm", "lexicon", "hotword"])
@pytest.mark.parametrize("seed", range(3))
def test_giving_words_early_changes_nothing(searches, kind, seed, monkeypatch):
    """flashlight-text by itself, all frames at once and nothing forgotten, finds the same."""
    searched, log_probs = searches[kind], spoken(seed, 800)
    monkeypatch.setattr("rdsdk.decoding.beam.DISAGREEMENT_FRAMES", 10**9)
    monkeypatch.setattr("rdsdk.decoding.beam.REST_FRAMES", 10**9)
    decoder = BeamDecoder(searched)
    early = decoder.feed(log_probs)
    if kind == "lm":  # without one, words stay undecided for as long as the beam remembers
        assert early
    last = np.array([0.0, -1e4, -1e4, -1e4, 0.0, -1e4], np.float32)
    rows = np.ascontiguousarray([*searched.allowed(log_probs), last], np.float32)
    best = max(searched.new().decode(rows.ctypes.data, *rows.shape), key=lambda found: found.score)
    wanted = [part for label in best.words if label >= 0 for part in searched.spoken(label)]
    assert text(early + decoder.end()) == " ".join(wanted)


@pytest.mark.parametrize("kind", ["lm", "lexicon", "hotword"])
def test_an_endless_stream_stays_small(searches, kind):
    decoder, most = BeamDecoder(searches[kind]), 0
    for seed in range(8):
        decoder.feed(spoken(seed, 500))
        most = max(most, decoder.kept_frames)
    assert most < DISAGREEMENT_FRAMES + CHECK_FRAMES


def test_an_open_word_is_not_shown_but_known(files):
    decoder = BeamDecoder(search(files))
    decoder.feed(said("__nu"))
    assert decoder.open_seconds == 0.04
    assert not decoder.between_words
    assert [word.text for word in decoder.unfinished()] in ([], ["NEW"])
    assert [word.text for word in decoder.end()] == ["NEW"]
    assert decoder.unfinished() == []


def test_a_hotword_of_two_words_is_preferred_and_comes_out_as_two(files):
    unclear = said("_nu_tu_").copy()
    unclear[4] = np.log([0.01, 0.52, 0.01, 0.46])  # t or n
    assert text(decode(search(files, lm=False, beam_size=30), unclear)) == "NEW TO"
    found = decode(search(files, ("new new",), lm=False, beam_size=30), unclear)
    assert [word.text for word in found] == ["NEW", "NEW"]
    assert found[0].end <= found[1].start


def test_a_hotword_without_a_pronunciation_is_refused(files):
    with pytest.raises(ConfigError, match="how 'Rdsdk' is pronounced"):
        search(files, ("Rdsdk",))


def test_lexicons_are_read_with_all_ways_to_say_a_word(files):
    ways = read_dictionary(files["lexicon"])
    assert ways["to"] == [("T", "UW1")]
    assert ways["TO"] == [("T",)]
    assert in_symbols(ways, PHONES) == WAYS


def test_what_cannot_be_used_is_said(files, tmp_path):
    with pytest.raises(ConfigError, match="no pronouncing lexicon"):
        BeamSearch(PHONES, BeamSettings(lexicon=tmp_path / "none.txt"))
    (tmp_path / "damaged.txt").write_text("NEW N UW\nNOON\n")
    with pytest.raises(DataError, match="line 2 has no phones for 'NOON'"):
        BeamSearch(PHONES, BeamSettings(lexicon=tmp_path / "damaged.txt"))
    (tmp_path / "other.txt").write_text("NEW 1 2\nNOON 1 2 1\nTO T\n")
    with pytest.raises(ConfigError, match=r"phones \['1', '2'\] are not the model's symbols"):
        BeamSearch(PHONES, BeamSettings(lexicon=tmp_path / "other.txt"))
    with pytest.raises(ConfigError, match="writes characters"):
        BeamSearch(Vocabulary.characters(), BeamSettings(lexicon=files["lexicon"]))
    strangers = write_arpa(tmp_path / "strangers.arpa")
    with pytest.raises(ConfigError, match="pronounces none of the words"):
        BeamSearch(PHONES, BeamSettings(lm=strangers, lexicon=files["lexicon"]))
    with pytest.raises(ConfigError, match="give their pronunciations"):
        BeamSearch(PHONES, BeamSettings(lm=files["lm"]))


def test_frames_of_another_vocabulary_are_refused(files):
    with pytest.raises(ConfigError, match=r"\(3, 5\).*\(T, 4\)"):
        BeamDecoder(search(files)).feed(np.zeros((3, 5), np.float32))


def test_a_changed_lexicon_is_read_again(tmp_path):
    file = tmp_path / "lexicon.txt"
    file.write_text("NEW N UW\n")
    first = shared_search(PHONES, BeamSettings(lexicon=file), ())
    assert shared_search(PHONES, BeamSettings(lexicon=file), ()) is first
    file.write_text("NEW N UW\nNOON N UW N\n")
    os.utime(file, ns=(1, 1))
    assert shared_search(PHONES, BeamSettings(lexicon=file), ()) is not first
