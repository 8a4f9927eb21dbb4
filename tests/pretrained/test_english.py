"""The bundled English model on real recordings: phones out of the file that ships, words out of the
lexicon and the language model that ship beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rdsdk
from rdsdk import cli
from rdsdk.audio import files
from rdsdk.decoding.language_model import LN_10, load_kenlm, words_of
from rdsdk.decoding.rnnlm import RnnLm
from rdsdk.evaluation import hearing, transcribers
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint

SPEECH = Path(__file__).parents[1] / "assets" / "speech"
ROWS = [json.loads(line) for line in (SPEECH / "manifest.jsonl").open()]
TEXTS = [row["text"] for row in ROWS]
UNSEEN = SPEECH.parent / "unseen"
UNSEEN_ROWS = [json.loads(line) for line in (UNSEEN / "manifest.jsonl").open()]
PRETRAINED = Path(rdsdk.bundled_models()["english"]).parent


@pytest.fixture(scope="module")
def recognizer() -> rdsdk.Recognizer:
    return rdsdk.load("english")


@pytest.fixture(scope="module")
def heard(recognizer) -> list[str]:
    return [text_of(recognizer, SPEECH / row["audio"]) for row in ROWS]


def text_of(recognizer: rdsdk.Recognizer, source: object, **options: object) -> str:
    return " ".join(segment.text for segment in recognizer.transcribe(source, **options))  # type: ignore[arg-type]


def test_read_sentences_are_recognised_for_the_most_part(heard):
    assert error_rates(TEXTS, heard).wer < 0.45
    # Negative control: the texts of other recordings do not fit.
    assert error_rates(TEXTS[1:] + TEXTS[:1], heard).wer > 0.85


def test_sentences_of_speakers_it_never_heard_are_recognised_for_the_most_part(recognizer):
    texts = [row["text"] for row in UNSEEN_ROWS]
    heard = [text_of(recognizer, UNSEEN / row["audio"]) for row in UNSEEN_ROWS]
    assert error_rates(texts, heard).wer < 0.45
    assert error_rates(texts[1:] + texts[:1], heard).wer > 0.85


def test_words_are_those_of_the_lexicon_beside_it_with_times_in_order(recognizer):
    lexicon = (PRETRAINED / "english.dict").read_text(encoding="utf-8")
    known = {line.split()[0].partition("(")[0].upper() for line in lexicon.splitlines()}
    for row in ROWS:
        segments = recognizer.transcribe(SPEECH / row["audio"])
        words = [word for segment in segments for word in segment.words]
        assert len(words) > 3
        assert {word.text.upper() for word in words} <= known
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[-1] <= row["seconds"]
        assert all(0 < word.confidence <= 1 for word in words)


@pytest.mark.parametrize("block", [1_001, 5_120])
def test_streaming_gives_the_words_of_offline(recognizer, heard, block):
    """Numbers differ by the rounding to int8, on which two readings that are nearly as good turn:
    with the same numbers words are the same, see tests/decoding."""
    streamed = []
    for row in ROWS:
        waveform = files.read(SPEECH / row["audio"])
        stream = recognizer.stream(partials=False)
        segments = []
        for at in range(0, len(waveform), block):
            segments += stream.feed(waveform[at : at + block])
        segments += stream.finish()
        streamed.append(" ".join(segment.text for segment in segments))
    assert error_rates(heard, streamed).wer < 0.15
    assert sum(a == b for a, b in zip(heard, streamed, strict=True)) >= 2
    assert error_rates(heard[1:] + heard[:1], streamed).wer > 0.85


def test_features_and_text_come_of_one_pass(recognizer):
    waveform = files.read(SPEECH / ROWS[0]["audio"])
    stream = recognizer.stream()
    frames = sum(len(stream.features(waveform[at : at + 5_120])) for at in range(0, 48_000, 5_120))
    assert 100 < frames <= 150
    assert recognizer.features(SPEECH / ROWS[0]["audio"]).shape[1] == 144


def test_hotwords_bring_out_what_was_said(recognizer):
    """REBECCA, as it is in the lexicon; a word that is not said does not come out."""
    source = SPEECH / ROWS[0]["audio"]
    said = " ".join(s.text for s in recognizer.transcribe(source, hotwords=["REBECCA"]))
    assert "REBECCA" in said.split()
    other = " ".join(s.text for s in recognizer.transcribe(source, hotwords=["ZANZIBAR"]))
    assert "ZANZIBAR" not in other.split()


def nats(model: RnnLm, texts: list[str]) -> float:
    """What all words of the texts cost."""
    total = 0.0
    for text in texts:
        ((state, expected),) = model.advance([model.end], [model.fresh()])
        for word in map(model.index, text.split()):
            total -= float(expected[word])
            ((state, expected),) = model.advance([word], [state])
    return total


def perplexity(model: RnnLm, texts: list[str]) -> float:
    return float(np.exp(nats(model, texts) / len(" ".join(texts).split())))


def test_its_recurrent_language_model_knows_english():
    model = RnnLm(PRETRAINED / "english.rnnlm")
    texts = [row["text"] for row in UNSEEN_ROWS]
    backwards = [" ".join(reversed(text.split())) for text in texts]
    assert perplexity(model, texts) < 500
    assert perplexity(model, backwards) > 2 * perplexity(model, texts)


def test_the_recurrent_language_model_changes_words_to_what_it_finds_likelier(recognizer):
    # Whether that is right more often is for thousands of words to say, and these are 49.
    assert recognizer.search.rnnlm == PRETRAINED / "english.rnnlm"
    weighed, alone = (
        [text_of(recognizer, UNSEEN / row["audio"], beam=beam) for row in UNSEEN_ROWS]
        for beam in (recognizer.search, replace(recognizer.search, rnnlm=None))
    )
    assert weighed != alone
    model = RnnLm(PRETRAINED / "english.rnnlm")
    known = words_of(PRETRAINED / "english.lm")
    ngram = load_kenlm(PRETRAINED / "english.lm", known)

    def of_ngram(texts: list[str]) -> float:
        total = 0.0
        for text in texts:
            state = ngram.start(False)
            for word in text.split():
                state, score = ngram.score(state, known.index(word))
                total -= LN_10 * score
        return total

    # It takes the place of a part of the n-gram's weight: against that one it prefers these words.
    # Not per word: one rare word may be likelier than three common ones.
    assert nats(model, weighed) - of_ngram(weighed) < nats(model, alone) - of_ngram(alone)


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) <= 12
    shutil.copyfile(UNSEEN / UNSEEN_ROWS[1]["audio"], tmp_path / "talk.flac")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    said = UNSEEN_ROWS[1]["text"].split()
    finals = [line for line in out.splitlines() if " s: " in line]
    assert sum(word in " ".join(finals).split() for word in said) > len(said) / 2
    assert "False " in out  # a partial
    assert out.splitlines()[-1] == "(379, 144)"


def test_silence_gives_no_words(recognizer):
    assert text_of(recognizer, (np.zeros(80_000, np.float32), 16_000)) == ""


def test_the_int8_file_says_what_its_checkpoint_says(recognizer, heard):
    kept = checkpoint.load(PRETRAINED / "english")
    assert kept.vocabulary is not None
    assert kept.vocabulary == recognizer.card.vocabulary
    texts = [
        transcribers.text_of(
            hearing.heard_log_probs(kept.student, files.read(SPEECH / row["audio"])),
            kept.vocabulary,
            recognizer.search,
        )
        for row in ROWS
    ]
    assert error_rates(texts, heard).wer < 0.2


def test_it_is_small_and_says_where_it_comes_from_and_how_well_it_does(recognizer, capsys):
    card = recognizer.card
    assert recognizer.size_bytes < 25e6
    assert (PRETRAINED / "english.lm").stat().st_size < 15e6
    assert (PRETRAINED / "english.rnnlm").stat().st_size < 10e6
    assert card.precision == "int8"
    assert card.licence == "CC BY 4.0"
    assert any("LibriSpeech" in source for source in card.training_data)
    assert {"dev", "dev_other", "dev_cv"} <= card.measured.keys()
    assert all("live_wer" in card.measured[name] for name in ("dev", "dev_other", "dev_cv"))
    assert card.search is not None
    assert rdsdk.DEFAULT_MODEL == "english"
    assert cli.main(["info", "english"]) == 0
    out = capsys.readouterr().out
    assert "those of english.dict" in out
    assert "measured: dev" in out
    assert cli.main(["info", str(PRETRAINED / "english.rnnlm")]) == 0
    out = capsys.readouterr().out
    assert "24,000" in out
    assert "perplexity" in out
