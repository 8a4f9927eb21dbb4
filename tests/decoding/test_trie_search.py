"""The stand-in beside flashlight-text itself, hypothesis by hypothesis."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beam_frames import LETTERS, decode, frames, search, text, write_arpa

from rdsdk.decoding import language_model, trie_search
from rdsdk.decoding.ngram_scores import KenLM
from rdsdk.errors import ModelError

needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="there is nothing to compare with"
)
SYMBOLS, BLANK, SILENCE, END = 7, 0, 5, 6
HERE = Path(__file__).parent


def frequencies(library: Any, seed: int, labels: int) -> Any:
    """A language model of labels: what a word scores depends on it and the one before."""
    scores = -np.random.default_rng(seed).random((labels + 1, labels + 1)) * 4

    class Frequencies(library.LM):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            # Kept, and told from each other by which they are: flashlight-text hands back no more.
            self.states = [library.LMState() for _ in scores]
            self.before = {id(state): number for number, state in enumerate(self.states)}

        def start(self, start_with_nothing):
            return self.states[labels]

        def score(self, state, label):
            return self.states[label], float(scores[self.before[id(state)], label])

        def finish(self, state):
            return self.states[labels], float(scores[self.before[id(state)], labels])

    return Frequencies()


def told(found: list[Any], most: int = 12) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    best = sorted(found, key=lambda one: -one.score)[:most]
    return [(one.score, tuple(map(int, one.tokens)), tuple(map(int, one.words))) for one in best]


def listened(decoder: Any, rows: np.ndarray) -> list[list[Any]]:
    """What there is from time to time, with some of it forgotten in between, and at the end."""
    decoder.decode_begin()
    seen = []
    for number, row in enumerate(rows):
        decoder.decode_step(row.ctypes.data, 1, len(row))
        if number % 7 == 6:
            seen.append(told(decoder.get_all_final_hypothesis()))
        if number % 13 == 12:
            decoder.prune(5)
    decoder.decode_end()
    return [*seen, told(decoder.get_all_final_hypothesis())]


def lexicon_decoder(library: Any, seed: int, beam: int, tokens: int, sums: bool) -> Any:
    rng = np.random.default_rng(seed)
    model = frequencies(library, seed, 25)
    trie = library.Trie(SYMBOLS, END)
    for label in range(25):
        spelling = [*rng.integers(1, SILENCE, rng.integers(1, 4)).tolist(), SILENCE]
        trie.insert(spelling, label, float(-rng.random() * 3))
    trie.smear(library.SmearingMode.MAX)
    options = library.LexiconDecoderOptions(
        *(beam, tokens, 25.0, 1.3, -0.2, -np.inf, 0.0, sums), library.CriterionType.CTC
    )
    return library.LexiconDecoder(options, trie, model, SILENCE, BLANK, -1, [], False), model


def free_decoder(library: Any, seed: int, beam: int, tokens: int, sums: bool) -> Any:
    model = frequencies(library, seed, SYMBOLS)
    options = library.LexiconFreeDecoderOptions(
        *(beam, tokens, 25.0, 0.7, 0.0, sums), library.CriterionType.CTC
    )
    return library.LexiconFreeDecoder(options, model, BLANK, BLANK, []), model


def unsure(seed: int, length: int = 45) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.full(SYMBOLS, 0.5), size=length) + 1e-6).astype(np.float32)


@pytest.mark.parametrize("made", [lexicon_decoder, free_decoder])
def test_the_end_behind_frames_that_are_no_numbers_has_no_hypotheses(made):
    """Few enough frames that nobody looked before the end."""
    decoder, _ = made(trie_search, 1, 20, 6, True)
    rows = np.full((3, SYMBOLS), np.nan, np.float32)
    assert decoder.decode(rows.ctypes.data, *rows.shape) == []
    rows = unsure(1, 3)
    assert decoder.decode(rows.ctypes.data, *rows.shape)


@needs_flashlight
@pytest.mark.parametrize("made", [lexicon_decoder, free_decoder])
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_hypotheses_and_scores_are_flashlight_texts(made, sums, seed):
    import flashlight.lib.text.decoder as library

    how = (seed, 20 + 30 * (seed % 3), 4 + seed % 4, sums)
    theirs, _kept = made(library, *how)
    ours, _ = made(trie_search, *how)
    expected, got = (listened(decoder, unsure(seed)) for decoder in (theirs, ours))
    for one, other in zip(expected, got, strict=True):
        assert [score for score, *_ in other] == pytest.approx([s for s, *_ in one], abs=2e-3)
        assert other[0][1:] == one[0][1:]
    # Negative control: other sound, other hypotheses.
    assert listened(ours, unsure(seed + 100))[-1] != expected[-1]


@needs_flashlight
def test_a_language_model_scores_as_flashlight_texts(tmp_path, monkeypatch):
    arpa = write_arpa(tmp_path / "tiny.arpa")
    words = language_model.words_of(arpa)
    theirs, ours = language_model.load_kenlm(arpa, words), KenLM(str(arpa), words)
    for nothing in (True, False):
        one, other = theirs.start(nothing), ours.start(nothing)
        for label in (0, 1, 0, 2, 3, 3):
            (one, score), (other, got) = theirs.score(one, label), ours.score(other, label)
            assert got == pytest.approx(score, abs=1e-6)
        assert ours.finish(other)[1] == pytest.approx(theirs.finish(one)[1], abs=1e-6)


def test_what_is_no_language_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rdsdk.decoding.language_model.has_flashlight", lambda: False)
    (tmp_path / "no.lm").write_bytes(b"\x00" * 400)
    with pytest.raises(ModelError, match=r"does not take .*no\.lm"):
        language_model.load_kenlm(tmp_path / "no.lm", ["A"])


def test_frames_that_are_no_numbers_are_told(monkeypatch):
    monkeypatch.setattr("rdsdk.decoding.language_model.has_flashlight", lambda: False)
    searched = search(LETTERS, hotwords=("AB",))
    assert isinstance(searched.new(), trie_search.LexiconFreeDecoder)
    with pytest.raises(ModelError, match="not numbers"):
        decode(searched, np.full((20, len(LETTERS)), np.nan, np.float32))
    with pytest.raises(ModelError, match="not numbers"):
        decode(searched, np.full((3, len(LETTERS)), np.nan, np.float32))
    assert text(decode(searched, frames("AB|", sure=0.95))) == "AB"


def test_states_that_no_hypothesis_is_in_are_forgotten():
    decoder, _ = lexicon_decoder(trie_search, 1, 20, 6, True)
    counts = []
    for row in unsure(3, 1200):
        decoder.decode_step(row.ctypes.data, 1, len(row))
        counts.append(len(decoder._states))
        if len(counts) % 40 == 0:
            decoder.prune(5)
    assert max(counts[600:]) <= 1.5 * max(counts[:600])


def test_all_of_beam_search_does_without_flashlight_text():
    """The tests beside this one once more, but for the longest of them."""
    files = ["test_beam.py", "test_beam_hotwords.py", "test_beam_language_model.py"]
    chosen = "not portions and not endless and not speaks"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    ran = subprocess.run(
        [*command, *(str(HERE / name) for name in [*files, "test_pronunciation.py"])],
        env={**os.environ, "RDSDK_WITHOUT_FLASHLIGHT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert ran.stdout.count(".") > 100


def test_english_says_the_same_without_flashlight_text():
    clip = next((HERE.parent / "assets" / "unseen").glob("*.flac"))
    code = (
        "import sys; sys.modules['flashlight'] = None; from rdsdk.cli import main; "
        f"sys.exit(main(['transcribe', {str(clip)!r}, '--json']))"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", code.replace("None", stands_for)],
            capture_output=True,
            text=True,
            check=True,
        )
        for stands_for in ("None", "__import__('flashlight')")
        if stands_for == "None" or importlib.util.find_spec("flashlight")
    ]
    said = [[json.loads(line) for line in one.stdout.splitlines()] for one in ran]
    assert sum(len(row["text"].split()) for row in said[0]) > 5
    assert all(one == said[0] for one in said)
