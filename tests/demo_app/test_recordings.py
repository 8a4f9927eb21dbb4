import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_program import SAMPLE_RATE, tones

import rdsdk
from demo_app import recordings


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, tones("ABC DE" + 10 * "_" + "F GH"), SAMPLE_RATE)
    return path


def test_a_file_is_drawn_with_its_words_times_and_speed(wav, streaming_pte, capsys):
    assert recordings.main([str(wav), "--model", str(streaming_pte)]) == 0
    out = capsys.readouterr().out
    assert "speech.wav" in out
    assert "ABC DE F GH" in out
    assert "x real time" in out
    (row,) = [line for line in out.splitlines() if " GH " in line]
    assert "2.08" in row
    assert "█" in row
    assert "trained on tones written by the test" in out


@pytest.mark.parametrize(
    ("model", "folder", "licence", "enough"),
    [
        ("english", "unseen", "CC BY 4.0", 0.5),
        ("digits", "digits", "CC BY-SA 4.0", 0.9),
    ],
)
def test_the_recordings_of_the_source_are_shown_beside_what_was_said(
    capsys, model, folder, licence, enough
):
    assert recordings.main(["--model", model]) == 0
    out = " ".join(capsys.readouterr().out.split())
    rows = [json.loads(row) for row in (recordings.ASSETS / folder / "manifest.jsonl").open()]
    assert len(rows) >= 4
    for row in rows:
        assert row["audio"] in out
        assert row["text"].upper() in out
    assert licence in out
    words = sum(len(row["text"].split()) for row in rows)
    right = sum(
        len(row["text"].split()) for row in rows if f"{row['text'].upper()} =" in out
    ) + sum(map(int, re.findall(r"(\d+) of \d+ words", out)))
    assert right > enough * words


def test_a_model_that_hears_something_else_is_shown_to(streaming_pte, capsys):
    assert recordings.main(["--model", str(streaming_pte)]) == 0
    out = capsys.readouterr().out
    assert out.count("0 of ") == 4  # this model hears tones
    assert " =" not in out


@pytest.mark.parametrize("folder", ["unseen", "digits"])
def test_the_recordings_can_be_read_and_last_as_long_as_said(folder):
    for row in map(json.loads, (recordings.ASSETS / folder / "manifest.jsonl").open()):
        seconds = rdsdk.duration_seconds(recordings.ASSETS / folder / row["audio"])
        assert seconds == pytest.approx(row["seconds"], abs=0.01)


@pytest.mark.parametrize(
    ("heard", "shown", "red"),
    [
        ("A RED HOUSE", "A RED HOUSE  =", ""),
        ("A LED HOUSE", "A RED HOUSE  2 of 3 words", "RED"),
        ("A HOUSE", "A RED HOUSE  2 of 3 words", "RED"),
        ("A RED BRICK HOUSE", "A RED HOUSE  3 of 3 words, 1 too many", ""),
        ("", "A RED HOUSE  0 of 3 words", "A RED HOUSE"),
    ],
)
def test_words_that_were_not_heard_are_red(heard, shown, red):
    parts = list(recordings.compared(heard, "a red house"))
    assert "".join(text for text, _ in parts) == shown
    assert " ".join(text for text, style in parts if style == "red") == red


def test_a_right_text_is_marked(wav, streaming_pte, capsys):
    from rich.console import Console

    recording = recordings.Recording(wav, "abc de f gh")
    recordings.show(recording, rdsdk.load(streaming_pte), Console())
    out = capsys.readouterr().out
    assert "ABC DE F GH  =" in out
    assert " of " not in out


def test_a_recording_without_words_is_said_so(tmp_path, streaming_pte, capsys):
    path = tmp_path / "quiet.wav"
    soundfile.write(path, np.zeros(8000), SAMPLE_RATE)
    assert recordings.main([str(path), "--model", str(streaming_pte)]) == 0
    assert "(nothing)" in capsys.readouterr().out


def test_a_bad_file_does_not_stop_the_others(wav, tmp_path, streaming_pte, capsys):
    bad = tmp_path / "missing.wav"
    assert recordings.main([str(bad), str(wav), "--model", str(streaming_pte)]) == 2
    captured = capsys.readouterr()
    assert "no such file" in captured.err
    assert "ABC DE F GH" in captured.out


def test_a_bad_model_is_code_2(wav, tmp_path, capsys):
    assert recordings.main([str(wav), "--model", str(tmp_path / "none.pte")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("start", "end", "drawn"),
    [(0.0, 1.0, (0, 4)), (9.9, 10.0, (39, 39)), (5.0, 5.001, (20, 20)), (0.0, 10.0, (0, 39))],
)
def test_a_word_stands_where_it_was_heard(start, end, drawn):
    line = list(recordings.cells(rdsdk.Word("A", start, end, 1.0), seconds=10.0))
    assert len(line) == recordings.LINE_CELLS
    blocks = [cell for cell, mark in enumerate(line) if mark == "█"]
    assert (blocks[0], blocks[-1]) == drawn
    assert len(blocks) == drawn[1] - drawn[0] + 1
