import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.segment import Word
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError

LETTERS = Vocabulary(("_", "|", "A", "B", "C"))
CLOSED = Vocabulary(("_", "|", "A", "B", "C"), lexicon=("AB", "CAB"))
WORDS = Vocabulary.words(["YES", "NO", "STOP"])
SOME_WORDS = Vocabulary(("<blank>", "YES", "NO", "STOP"), 0, None, lexicon=("YES", "NO"))
LATE_BLANK = Vocabulary(("A", "B", "|", "_"), blank=3)


def frames(path: str, vocabulary: Vocabulary = LETTERS, sure: float = 0.9) -> np.ndarray:
    """log_probs (T, V) whose likeliest symbols spell ``path``, one frame a character."""
    probabilities = np.full((len(path), len(vocabulary)), (1 - sure) / (len(vocabulary) - 1))
    for row, symbol in zip(probabilities, path, strict=True):
        row[vocabulary.symbols.index(symbol)] = sure
    return np.log(probabilities).astype(np.float32)


def word_frames(path: str, vocabulary: Vocabulary, sure: float = 0.9) -> np.ndarray:
    names = {"_": "<blank>", "y": "YES", "n": "NO", "s": "STOP"}
    probabilities = np.full((len(path), len(vocabulary)), (1 - sure) / (len(vocabulary) - 1))
    for row, name in zip(probabilities, path, strict=True):
        row[vocabulary.symbols.index(names[name])] = sure
    return np.log(probabilities).astype(np.float32)


def decode(log_probs: np.ndarray, vocabulary: Vocabulary) -> list[Word]:
    decoder = GreedyDecoder(vocabulary)
    words = decoder.feed(log_probs)
    last = decoder.end_word()
    return words if last is None else [*words, last]


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("", []),
        ("____", []),
        ("||_||", []),
        ("A", ["A"]),
        ("AAAA", ["A"]),
        ("A_A", ["AA"]),
        ("AABB__C", ["ABC"]),
        ("AB|C", ["AB", "C"]),
        ("AB||_|C", ["AB", "C"]),
        ("A|A", ["A", "A"]),
        ("_|_AB_|_", ["AB"]),
    ],
)
def test_repeats_and_blanks_collapse_to_words(path, texts):
    assert [word.text for word in decode(frames(path), LETTERS)] == texts


def test_the_blank_may_be_any_symbol():
    assert [word.text for word in decode(frames("AA_A|B", LATE_BLANK), LATE_BLANK)] == ["AA", "B"]


def test_words_begin_and_end_with_their_symbols_frames():
    first, second = decode(frames("__AAB_____|__C_"), LETTERS)
    assert (first.start, first.end) == (0.04, 0.10)
    assert (second.start, second.end) == (0.26, 0.28)


def test_the_confidence_is_the_mean_of_the_symbols_peaks():
    log_probs = np.concatenate(
        [frames("A", sure=0.5), frames("A", sure=0.9), frames("B", sure=0.4)]
    )
    (word,) = decode(log_probs, LETTERS)
    assert word.confidence == pytest.approx(np.sqrt(0.9 * 0.4), rel=1e-5)


def test_each_symbol_is_a_word_without_a_boundary():
    words = decode(word_frames("_yy_y_nnss", WORDS), WORDS)
    assert [word.text for word in words] == ["YES", "YES", "NO", "STOP"]
    assert (words[0].start, words[0].end) == (0.02, 0.06)


def test_a_symbol_outside_the_lexicon_gives_way_to_a_likely_word():
    log_probs = word_frames("_ss_", SOME_WORDS, sure=0.5)
    log_probs[1:3, SOME_WORDS.symbols.index("NO")] = np.log(0.4)
    assert [word.text for word in decode(log_probs, SOME_WORDS)] == ["NO"]
    sure = word_frames("_ss_y_", SOME_WORDS, sure=0.9999)
    assert [word.text for word in decode(sure, SOME_WORDS)] == ["YES"]


def test_a_word_outside_the_lexicon_is_replaced_or_dropped():
    log_probs = frames("AC|C_A_B", CLOSED, sure=0.9)
    log_probs[1, CLOSED.symbols.index("B")] = np.log(0.5)
    assert [word.text for word in decode(log_probs, CLOSED)] == ["AB", "CAB"]
    assert decode(frames("BCB|", CLOSED, sure=0.9999), CLOSED) == []


def test_a_first_letter_below_the_blank_is_found_before_the_word():
    log_probs = frames("|__AB|", CLOSED, sure=0.9)
    assert [word.text for word in decode(log_probs, CLOSED)] == ["AB"]
    spelled = Vocabulary(CLOSED.symbols, lexicon=("CAB",))
    log_probs[2, spelled.symbols.index("C")] = np.log(0.4)
    assert [word.text for word in decode(log_probs, spelled)] == ["CAB"]


def paths() -> st.SearchStrategy[np.ndarray]:
    return st.builds(
        lambda path, seed: (
            frames(path, sure=0.7)
            + np.random.default_rng(seed).normal(0, 1.5, (len(path), 5)).astype(np.float32)
        ),
        st.text("_|ABC", max_size=60),
        st.integers(0, 1000),
    )


@settings(max_examples=150, deadline=None)
@given(paths(), st.sampled_from([LETTERS, CLOSED, None]), st.lists(st.integers(0, 9), max_size=20))
def test_frames_in_any_portions_give_the_same_words(log_probs, vocabulary, sizes):
    if vocabulary is None:
        vocabulary = Vocabulary(("_", "V", "W", "X", "Y"), word_boundary=None)
    log_probs -= np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    decoder, words, at = GreedyDecoder(vocabulary), [], 0
    for size in sizes:
        words += decoder.feed(log_probs[at : at + size])
        at += size
    words += decoder.feed(log_probs[at:])
    last = decoder.end_word()
    words += [] if last is None else [last]
    assert words == decode(log_probs, vocabulary)


@settings(max_examples=150, deadline=None)
@given(paths(), st.sampled_from([LETTERS, CLOSED]))
def test_times_are_ordered_and_inside_the_frames_and_confidences_are_shares(log_probs, vocabulary):
    log_probs -= np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
    words = decode(log_probs, vocabulary)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.start < word.end for word in words)
    assert all(0 <= time <= len(log_probs) * 0.02 + 1e-9 for time in times)
    assert all(0 <= word.confidence <= 1 for word in words)


@settings(max_examples=100, deadline=None)
@given(paths())
def test_the_text_is_that_of_a_plain_collapse(log_probs):
    best = log_probs.argmax(axis=1).tolist()
    kept = [s for before, s in zip([None, *best], best, strict=False) if s != before]
    text = " ".join(word.text for word in decode(log_probs, LETTERS))
    assert text == LETTERS.decode(kept)


def test_a_forced_end_does_not_read_the_rest_of_a_run_as_a_new_word():
    decoder = GreedyDecoder(LETTERS)
    decoder.feed(frames("AB"))
    assert decoder.end_word().text == "AB"
    decoder.feed(frames("BB"))
    assert decoder.end_word() is None
    assert [w.text for w in decoder.feed(frames("_B|"))] == ["B"]


def test_the_open_word_is_shown_without_ending_it():
    decoder = GreedyDecoder(LETTERS)
    assert decoder.pending() is None
    decoder.feed(frames("AB"))
    assert decoder.pending().text == "AB"
    assert [w.text for w in decoder.feed(frames("C|"))] == ["ABC"]


def test_an_open_word_that_no_lexicon_word_begins_with_is_not_shown():
    decoder = GreedyDecoder(CLOSED)
    decoder.feed(frames("CA", CLOSED))
    assert decoder.pending().text == "CA"
    decoder.feed(frames("C", CLOSED))
    assert decoder.pending() is None


def test_reset_starts_again_at_second_zero():
    decoder = GreedyDecoder(LETTERS)
    decoder.feed(frames("__AB"))
    decoder.reset()
    assert decoder.pending() is None
    assert decoder.feed(frames("C|"))[0].start == 0.0


def test_frames_of_another_vocabulary_are_refused():
    with pytest.raises(ConfigError, match=r"\(3, 4\).*\(T, 5\)"):
        GreedyDecoder(LETTERS).feed(np.zeros((3, 4), np.float32))
