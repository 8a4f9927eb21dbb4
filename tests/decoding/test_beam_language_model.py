import os
import subprocess
import sys

import numpy as np
import pytest
from beam_frames import LETTERS, WORDS, decode, frames, search, text, write_arpa

from rdsdk.decoding.language_model import LN_10, load_kenlm, words_of
from rdsdk.decoding.search import shared_search
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError


@pytest.fixture
def arpa(tmp_path):
    return write_arpa(tmp_path / "tiny.arpa")


def test_the_words_of_an_arpa_file(arpa):
    assert words_of(arpa) == ("AB", "AC", "CAB", "B")


def test_the_language_model_scores_as_it_is_written(arpa):
    words = words_of(arpa)
    lm = load_kenlm(arpa, words)
    state, score = lm.score(lm.start(False), words.index("AB"))
    assert score == pytest.approx(-0.4)
    state, score = lm.score(state, words.index("AC"))
    assert score == pytest.approx(-1.6)
    _, score = lm.finish(state)
    assert score == pytest.approx(-0.1 - 0.9)
    assert pytest.approx(2.302585) == LN_10


def test_words_in_another_case_are_written_in_the_models(tmp_path):
    lower = write_arpa(tmp_path / "lower.arpa", {("ab",): -0.5, ("cab",): -0.5, ("</s>",): -0.9})
    assert text(decode(search(lm=lower), frames("AB|CAB|", sure=0.95))) == "AB CAB"


def test_a_language_model_of_another_alphabet_is_refused(tmp_path):
    greek = write_arpa(tmp_path / "greek.arpa", {("αβ",): -0.5, ("γ",): -0.5, ("AB",): -0.9})
    with pytest.raises(ConfigError, match="only 1 of the 3 words"):
        search(lm=greek)
    with pytest.raises(ConfigError, match="knows none of the model's words"):
        search(WORDS, lm=greek)


def test_a_lexicon_stays_closed_with_a_language_model(arpa):
    closed = Vocabulary(LETTERS.symbols, lexicon=("AB", "CAB"))
    said = frames("AC|AB|", sure=0.9)
    assert text(decode(search(lm=arpa), said)) == "AC AB"
    assert "AC" not in text(decode(search(closed, lm=arpa), said))


def test_a_language_model_of_whole_words_says_which_follow_each_other(tmp_path):
    lm = write_arpa(
        tmp_path / "words.arpa",
        {("yes",): -0.5, ("no",): -0.5, ("</s>",): -0.5, ("yes", "no"): -0.05, ("yes", "yes"): -3},
        {"yes": -0.2},
    )
    said = frames(["YES", "<blank>", "YES", "<blank>"], WORDS, sure=0.9)
    yes, no = WORDS.encode("YES NO")
    said[2, [yes, no]] = np.log([0.5, 0.4])
    assert text(decode(search(WORDS), said)) == "YES YES"
    assert text(decode(search(WORDS, lm=lm), said)) == "YES NO"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "neither a KenLM binary nor an ARPA file"),
        (b"\\data\\\nngram 1=1\n", "without 1-grams"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1.0\n", "has no word"),
        (b"mmap lm http://kheafield.com/code format version 5\n\0", "cut off"),
        (b"\x1f\x8b compressed", "compressed ARPA is not read"),
    ],
)
def test_what_is_no_language_model_is_refused(tmp_path, content, message):
    path = tmp_path / "lm"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        search(lm=path)


def test_a_damaged_language_model_is_refused(tmp_path, arpa):
    with pytest.raises(ModelError, match="there is no language model"):
        search(lm=tmp_path / "none")
    lines = arpa.read_text().replace("-0.6\tAB", "zero\tAB")
    (tmp_path / "damaged.arpa").write_text(lines)
    with pytest.raises(ModelError, match="KenLM does not take"):
        search(lm=tmp_path / "damaged.arpa")


def test_a_search_is_shared_until_the_language_model_changes(arpa):
    settings = BeamSettings(lm=arpa)
    first = shared_search(LETTERS, settings, ["AB"])
    assert shared_search(LETTERS, BeamSettings(lm=arpa), ("AB",)) is first
    assert shared_search(LETTERS, settings) is not first
    write_arpa(arpa, {("AB",): -0.1, ("</s>",): -0.9})
    os.utime(arpa, (1, 1))
    assert shared_search(LETTERS, settings, ["AB"]) is not first


def test_without_anything_that_reads_a_language_model_it_is_named(monkeypatch, arpa):
    monkeypatch.setattr("rdsdk.decoding.language_model.has_flashlight", lambda: False)
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ConfigError, match="pip install camel-kenlm"):
        search(lm=arpa)
    # Hotwords alone need none.
    assert text(decode(search(hotwords=("AB",)), frames("AB|", sure=0.95))) == "AB"


def test_greedy_decoding_does_not_import_it():
    code = (
        "import sys; from rdsdk.decoding.decoder import new_decoder; "
        "from rdsdk.decoding.vocabulary import Vocabulary; new_decoder(Vocabulary.characters()); "
        "late = ('flashlight', 'kenlm', 'rdsdk.decoding.trie'); "
        "sys.exit(any(name.startswith(late) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
