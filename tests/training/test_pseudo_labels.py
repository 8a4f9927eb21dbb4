"""Stretches that two recognisers heard alike: the real PocketSphinx beside the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.cli import main
from rdsdk.data.digit_sources import ROW_FIELDS
from rdsdk.data.manifest import read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.errors import DataError
from rdsdk.runtime.recognizer import load
from rdsdk.training import pseudo_labels
from rdsdk.training.pseudo_labels import HEARD, MANIFEST, Heard, Listener, agreed, cut_out

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"


def words(text: str) -> list[Heard]:
    """One word every half second."""
    return [Heard(word, at / 2, at / 2 + 0.5) for at, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("heard", "other", "kept"),
    [
        ("A RED HOUSE STOOD", "A RED HOUSE STOOD", ["A RED HOUSE STOOD"]),
        ("A RED HOUSE STOOD", "A LED HOUSE STOOD", ["HOUSE STOOD"]),
        # A word more on either side ends the run.
        ("GREEN HOUSE STOOD THERE", "GREEN HOUSE STOOD UP THERE", ["GREEN HOUSE STOOD"]),
        ("GREEN HOUSE WELL STOOD THERE", "GREEN HOUSE STOOD THERE", ["GREEN HOUSE", "STOOD THERE"]),
        ("OF THE", "OF THE", []),
        ("NEVERTHELESS", "NEVERTHELESS", []),
        ("STOOD THERE GREEN", "GREEN STOOD THERE", ["STOOD THERE"]),
        ("", "A RED HOUSE", []),
        ("A RED HOUSE", "", []),
    ],
)
def test_runs_that_both_heard_are_kept(heard: str, other: str, kept: list[str]) -> None:
    found = agreed(words(heard), other.split())
    assert [" ".join(word for word, _, _ in run) for run in found] == kept
    for run in found:
        assert all(word in words(heard) for word in run)


def test_what_both_heard_was_said_and_is_cut_out_where_it_was_said(tmp_path: Path) -> None:
    # A program loaded before, with the default threads, is no hindrance.
    load("english").transcribe((np.zeros(16_000, np.float32), 16_000))
    out = tmp_path / "pseudo"
    arguments = ["prepare", "pseudo", "english", str(SPEECH), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    # All that other stages ask a row for.
    licences = {row["licence"] for row in map(json.loads, SPEECH.read_text().splitlines())}
    assert {row["licence"] for row in rows} <= licences
    assert set(ROW_FIELDS) <= set(rows[0])
    said = {
        row["id"]: (row["text"], row["audio"])
        for row in map(json.loads, SPEECH.read_text().splitlines())
    }
    assert len({row["speaker"] for row in rows}) > 1
    right = 0
    for row in rows:
        source, _, at = row["id"].rpartition("-")
        text, audio = said[source]
        right += f" {row['text']} " in f" {text} "
        whole, _ = soundfile.read(SPEECH.parent / audio, dtype="float32")
        piece, rate = soundfile.read(out / row["audio"], dtype="float32")
        assert rate == 16_000
        assert len(piece) / rate == pytest.approx(row["seconds"], abs=1e-3)
        start = round(float(at.removesuffix("ms")) * 16)
        near = [whole[first : first + len(piece)] for first in range(start, start + 17)]
        assert min(np.abs(part - piece).max() for part in near if len(part) == len(piece)) < 1e-3
    assert right >= len(rows) - 1
    assert sum(len(row["text"].split()) for row in rows) >= 10
    assert len(read_cuts(out / MANIFEST)) == len(rows)

    # Nothing is heard twice, and half a line of a killed run is heard again.
    lines = (out / HEARD).read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"other": "', '"other": "KEPT ')
    (out / HEARD).write_text("".join(lines[:-1]) + lines[-1][:20])
    before = (out / MANIFEST).read_text()
    assert main(arguments) == 0
    again = (out / HEARD).read_text().splitlines(keepends=True)
    assert again == lines
    assert (out / MANIFEST).read_text() == before


def test_another_models_hearing_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / HEARD).write_text(json.dumps({"id": "a", "model": "other.pte"}) + "\n")
    assert main(["prepare", "pseudo", "english", str(SPEECH), "--out", str(tmp_path)]) == 2
    assert "other.pte" in capsys.readouterr().err
    (tmp_path / HEARD).write_text('{"id": 3}\n')
    assert main(["prepare", "pseudo", "english", str(SPEECH), "--out", str(tmp_path)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_what_is_heard_does_not_depend_on_what_was_heard_before() -> None:
    one, other = (load_waveform(cut) for cut in list(read_cuts(SPEECH))[:2])
    listener = Listener()
    first = listener.words(one)
    listener.words(other / 20)
    assert listener.words(one) == first
    assert len(first) > 5


def test_nothing_alike_is_told(tmp_path: Path) -> None:
    rows = [
        {"id": cut.id, "speaker": None, "model": "m", "words": [["YES", 0.0, 0.5]], "other": "NO"}
        for cut in read_cuts(SPEECH)
    ]
    with pytest.raises(DataError, match="nothing was heard alike"):
        cut_out(rows, {cut.id: cut for cut in read_cuts(SPEECH)}, tmp_path)


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent.jsonl")
    assert pseudo_labels.main(["english", absent, "--out", str(tmp_path / "o")]) == 2
    assert "absent.jsonl" in capsys.readouterr().err
    assert pseudo_labels.main(["no-such-model", str(SPEECH), "--out", str(tmp_path / "p")]) == 2
    assert "no-such-model" in capsys.readouterr().err
    assert pseudo_labels.main(["english", str(SPEECH), "--out", str(tmp_path), "--words", "0"]) == 2
    assert "--words" in capsys.readouterr().err
