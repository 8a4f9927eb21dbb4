"""Lines in synthetic voices: the real synthesiser, stopped and gone on with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.data import synthetic_speech
from rdsdk.data.manifest import read_cuts
from rdsdk.data.synthetic_speech import MANIFEST, choose, main
from rdsdk.data.synthetic_voices import PROGRAMS
from rdsdk.errors import DataError

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None and "RDSDK_REQUIRE_ESPEAK" not in os.environ,
    reason="espeak-ng is not installed (apt-get install espeak-ng)",
)
LINES = ["no", "the ship went down in the bay", "one two three four five", "a door was open there"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def arguments(text: Path, out: Path, seconds: float) -> list[str]:
    hours = str(seconds / 3600)
    return [str(text), "--out", str(out), "--hours", hours, "--programs", "espeak-ng"]


def rows_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


@needs_espeak
def test_lines_are_spoken_in_several_voices_and_read_as_a_corpus(text: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(arguments(text, out, 15)) == 0
    rows = rows_of(out)
    # "no" is too short a line to be said.
    assert {row["text"] for row in rows} <= {line.upper() for line in LINES[1:]}
    assert len({row["speaker"] for row in rows}) > 2
    assert sum(float(str(row["seconds"])) for row in rows) >= 15
    for row in rows:
        waveform, rate = soundfile.read(out / str(row["audio"]))
        assert rate == 16_000
        assert len(waveform) / rate == pytest.approx(row["seconds"], abs=1e-3)
        assert np.abs(waveform).max() > 0.01
    assert len(read_cuts(out / MANIFEST)) == len(rows)


@needs_espeak
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(text: Path, tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(text, whole, 14)) == 0
    assert main(arguments(text, parts, 5)) == 0
    begun = len(rows_of(parts))
    with (parts / MANIFEST).open("a") as manifest:
        manifest.write('{"id": "synthetic-0-9')  # killed within a line
    assert main(arguments(text, parts, 14)) == 0
    assert begun < len(rows_of(whole))
    assert rows_of(parts) == rows_of(whole)
    assert main(arguments(text, parts, 14)) == 0  # nothing is left to do
    assert rows_of(parts) == rows_of(whole)


def test_what_is_said_depends_on_the_seed_and_the_number_alone():
    first = [choose(LINES, list(PROGRAMS), 1, index) for index in range(40)]
    assert first == [choose(LINES, list(PROGRAMS), 1, index) for index in range(40)]
    assert first != [choose(LINES, list(PROGRAMS), 2, index) for index in range(40)]
    assert {voice.program for voice, _ in first} > {"flite"}
    flite = [choose(LINES, ["flite"], 1, index)[0].program for index in range(40)]
    assert set(flite) == {"flite"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--programs", "cat"], "'cat'"),
        (["--hours", "0"], "0.0 hours"),
        (["--programs", "espeak-ng", "--hours", "1e-4"], "no line"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, monkeypatch, capsys, changed, said):
    monkeypatch.setattr(synthetic_speech, "require_programs", lambda programs: None)
    short = tmp_path / "short.txt"
    short.write_text("no\n")
    assert main([str(short), "--out", str(tmp_path / "out"), "--hours", "1", *changed]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.strip().count("\n") <= 1


def test_voices_that_always_fail_end_the_run(text: Path, tmp_path: Path, monkeypatch, capsys):
    def fails(voice: object, line: str) -> np.ndarray:
        raise DataError("no sound")

    monkeypatch.setattr(synthetic_speech, "require_programs", lambda programs: None)
    monkeypatch.setattr(synthetic_speech, "speak", fails)
    assert main(arguments(text, tmp_path / "out", 60)) == 2
    assert "could not be spoken" in capsys.readouterr().err
