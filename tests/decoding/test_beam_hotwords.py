import numpy as np
import pytest
from beam_frames import LETTERS, WORDS, between, decode, frames, search, text, write_arpa

from rdsdk.decoding.hotwords import BoostedSpellings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError

CHARACTERS = Vocabulary.characters()


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    return write_arpa(tmp_path_factory.mktemp("lm") / "tiny.arpa")


# C_A_B with a C that was hardly heard: BAC is near enough only for whom expects it.
UNCLEAR = between(between(frames("AB|_A_B_|", sure=0.95), 3, B=0.2, _=0.8), 7, C=0.3, _=0.7)
CLEAR = frames("AB|_C_A_B_|", sure=0.95)


@pytest.mark.parametrize("kind", ["letters", "lm"])
def test_a_hotword_is_found_where_it_was_nearly_said_and_nowhere_else(arpa, kind):
    lm = {"lm": arpa} if kind == "lm" else {}
    assert "BABC" not in text(decode(search(**lm), UNCLEAR))
    expecting = search(hotwords=("BABC",), **lm)
    assert text(decode(expecting, UNCLEAR)).split() == ["AB", "BABC"]
    assert text(decode(expecting, CLEAR)) == text(decode(search(**lm), CLEAR)) == "AB CAB"


@pytest.mark.parametrize("kind", ["letters", "lm"])
def test_a_boost_of_nothing_changes_nothing(arpa, kind):
    lm = {"lm": arpa} if kind == "lm" else {}
    timid = search(hotwords=("BABC",), hotword_boost=0.0, **lm)
    assert text(decode(timid, UNCLEAR)) == text(decode(search(**lm), UNCLEAR))


def test_a_word_that_no_lexicon_has_can_be_a_hotword(arpa):
    said = frames("AB|CBC|AB|", sure=0.98)
    assert "CBC" not in text(decode(search(lm=arpa), said))
    assert text(decode(search(lm=arpa, hotwords=("Cbc",)), said)) == "AB CBC AB"


def test_a_hotword_of_several_words_is_expected_as_a_whole(arpa):
    said = frames("C_C|BA|", sure=0.9)
    assert "CC" not in text(decode(search(lm=arpa), said))
    both = search(lm=arpa, hotwords=("CC BA",))
    words = [(word.text, word.start, word.end) for word in decode(both, said)]
    assert words == [("CC", 0.0, 0.06), ("BA", 0.08, 0.12)]
    # One of them alone is no word.
    assert "CC" not in text(decode(both, frames("C_C|AB|", sure=0.9)))


def test_a_hotword_of_the_language_model_is_preferred_too(arpa):
    said = between(frames("AB|_A_B_|", sure=0.95), 6, B=0.55, C=0.45)
    assert text(decode(search(lm=arpa), said)) == "AB AB"
    assert text(decode(search(lm=arpa, hotwords=("AC",)), said)) == "AB AC"


def test_whole_words_can_be_preferred():
    said = frames(["YES", "<blank>", "NO"], WORDS, sure=0.4)
    said[2, WORDS.symbols.index("STOP")] = np.log(0.35)
    assert text(decode(search(WORDS), said)) == "YES NO"
    assert text(decode(search(WORDS, ("stop",), hotword_boost=0.5), said)) == "YES STOP"


def test_a_hotword_that_cannot_be_written_is_refused():
    with pytest.raises(ConfigError, match="'R2D2' cannot be written"):
        search(CHARACTERS, ("R2D2",))
    with pytest.raises(ConfigError, match="'MAYBE' cannot be written"):
        search(WORDS, ("MAYBE",))
    with pytest.raises(ConfigError, match="one by one"):
        search(WORDS, ("YES NO",))
    with pytest.raises(ConfigError, match="' ' cannot be written"):
        search(CHARACTERS, (" ",))


def earned(lm: BoostedSpellings, said: str) -> float:
    state, total = lm.start(False), 0.0
    for symbol in LETTERS.encode(said.replace("|", " ")):
        state, score = lm.score(state, symbol)
        total += score
    _, score = lm.finish(state)
    return total + score


@pytest.mark.parametrize(
    ("said", "symbols"),
    [
        ("AB", 2),
        ("AB|AB", 4),
        ("C|AB", 2),
        ("A", 0),
        ("ABA", 0),
        ("ABC", 3),
        ("AB|CA", 5),
        ("AB|CAC", 2),
        ("AB|CAB", 5),
        ("AB|CAB|B", 5),
        ("BB|CC", 5),
        ("BB", 0),
        ("BB|CB", 0),
        ("BB|CAB", 3),
        ("BB|BB|CC", 5),
        ("BB|CA|AB", 2),
    ],
)
def test_a_spelling_earns_its_boost_once_it_is_a_whole_word(said, symbols):
    spellings = [LETTERS.encode(word) for word in ("AB", "ABC", "AB CA", "BB CC", "CAB")]
    lm = BoostedSpellings(spellings, 3.0, LETTERS.boundary_id)
    assert earned(lm, said) == pytest.approx(3.0 * symbols)
