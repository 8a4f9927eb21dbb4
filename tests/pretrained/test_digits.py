"""The bundled digits model on real recordings: the file that ships, in the runtime that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import rdsdk
from rdsdk.audio import files
from rdsdk.evaluation import hearing, transcribers
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint

ASSETS = Path(__file__).parents[1] / "assets"
PRETRAINED = Path(rdsdk.bundled_models()["digits"]).parent
DIGITS = [json.loads(line) for line in (ASSETS / "digits" / "manifest.jsonl").open()]
SPEECH = [json.loads(line) for line in (ASSETS / "speech" / "manifest.jsonl").open()]


@pytest.fixture(scope="module")
def recognizer() -> rdsdk.Recognizer:
    return rdsdk.load("digits")


def text_of(recognizer: rdsdk.Recognizer, source: object) -> str:
    return " ".join(segment.text for segment in recognizer.transcribe(source))  # type: ignore[arg-type]


def test_real_digit_strings_of_the_development_speaker_are_recognised(recognizer):
    heard = [text_of(recognizer, ASSETS / "digits" / row["audio"]) for row in DIGITS]
    rates = error_rates([row["text"] for row in DIGITS], heard)
    assert rates.words.reference == 28
    assert rates.words.errors <= 5
    # Negative control: the texts of other recordings do not fit.
    assert error_rates([row["text"] for row in DIGITS[1:] + DIGITS[:1]], heard).wer > 0.5


def test_word_times_are_in_order_and_inside_the_recording(recognizer):
    for row in DIGITS:
        words = [
            word
            for segment in recognizer.transcribe(ASSETS / "digits" / row["audio"])
            for word in segment.words
        ]
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[0] > 0
        assert edges[-1] <= row["seconds"]
        assert all(0 < word.confidence <= 1 for word in words)


@pytest.mark.parametrize("row", SPEECH, ids=[row["id"] for row in SPEECH])
def test_ordinary_speech_gives_no_digits(recognizer, row):
    assert text_of(recognizer, ASSETS / "speech" / row["audio"]) == ""


def test_what_is_no_speech_gives_no_digits(recognizer):
    rng = np.random.default_rng(0)
    seconds = np.arange(5 * 16_000) / 16_000
    sounds = {
        "nothing": np.zeros(80_000),
        "hiss": 0.05 * rng.normal(size=80_000),
        "hum": 0.2 * sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in (1, 3, 5)),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * seconds),
        "clicks": 0.8 * (rng.random(80_000) < 1e-3),
    }
    for name, sound in sounds.items():
        assert text_of(recognizer, (sound.astype(np.float32), 16_000)) == "", name


@pytest.mark.parametrize("block", [160, 1_001, 5_120, 40_000])
def test_streaming_gives_the_same_words_as_offline(recognizer, block):
    for row in DIGITS:
        waveform = files.read(ASSETS / "digits" / row["audio"])
        stream = recognizer.stream(partials=False)
        segments = []
        for at in range(0, len(waveform), block):
            segments += stream.feed(waveform[at : at + block])
        segments += stream.finish()
        offline = text_of(recognizer, (waveform, 16_000))
        assert " ".join(segment.text for segment in segments) == offline


def test_the_int8_file_says_what_its_checkpoint_says(recognizer):
    kept = checkpoint.load(PRETRAINED / "digits")
    assert kept.vocabulary is not None
    assert kept.vocabulary == recognizer.card.vocabulary
    differing = 0
    for row in DIGITS:
        waveform = files.read(ASSETS / "digits" / row["audio"])
        text = transcribers.text_of(
            hearing.heard_log_probs(kept.student, waveform), kept.vocabulary
        )
        differing += error_rates([text], [text_of(recognizer, (waveform, 16_000))]).words.errors
    assert differing <= 1


def test_it_is_small_and_says_where_it_comes_from(recognizer):
    card = recognizer.card
    assert recognizer.size_bytes < 4e6
    assert card.precision == "int8"
    assert card.licence == "CC BY-SA 4.0"
    assert any("Free Spoken Digit Dataset" in source for source in card.training_data)
    assert not any("theo" in source for source in card.training_data)
    assert {"dev_wer", "dev_false_clips"} <= card.measured.keys()


def test_a_telephone_recording_is_heard(recognizer, tmp_path):
    waveform = files.read(ASSETS / "digits" / "theo-phone.flac")
    path = tmp_path / "phone.wav"
    soundfile.write(path, waveform[::2], 8_000)
    heard = text_of(recognizer, path).split()
    assert error_rates([DIGITS[0]["text"]], [" ".join(heard)]).words.errors <= 3
