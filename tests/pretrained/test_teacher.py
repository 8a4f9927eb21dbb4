"""The bundled teacher of English: taken by its name, to imitate and to write down recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rdsdk
from rdsdk.audio import files
from rdsdk.decoding.settings import BeamSettings
from rdsdk.evaluation.cli import main
from rdsdk.evaluation.transcribers import (
    is_checkpoint,
    joined,
    load_word_transcriber,
    own_search_of,
)
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint, tdnn
from rdsdk.training.imitation import Imitation

NAME = "english-tdnn-deep"
UNSEEN = Path(__file__).parents[1] / "assets" / "unseen"
ROWS = [json.loads(line) for line in (UNSEEN / "manifest.jsonl").open()]


def search() -> BeamSettings:
    found = rdsdk.load("english").search
    assert found is not None
    return found


def test_it_is_taken_by_its_name_and_writes_what_english_writes() -> None:
    assert NAME not in rdsdk.bundled_models()
    assert is_checkpoint(NAME)
    assert own_search_of(NAME) is None
    loaded = tdnn.load(NAME)
    student = checkpoint.load("english")
    assert student.vocabulary is not None
    assert loaded.vocabulary.symbols == student.vocabulary.symbols
    assert loaded.provenance["licence"] == "CC BY 4.0"
    # Kept in float16, and run in float32.
    assert {weight.dtype for weight in loaded.tdnn.parameters()} == {torch.float32}
    (teacher,) = Imitation(teachers=(NAME,)).load(student.vocabulary)
    assert isinstance(teacher, tdnn.Tdnn)
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_it_hears_more_of_unseen_speakers_than_chance() -> None:
    transcribe = load_word_transcriber(NAME, beam=search())
    heard = [joined(transcribe(files.read(UNSEEN / row["audio"]))) for row in ROWS]
    texts = [row["text"] for row in ROWS]
    assert error_rates(texts, heard).wer < 0.4
    # Negative control: the texts of other recordings do not fit.
    assert error_rates(texts[1:] + texts[:1], heard).wer > 0.85


def test_the_command_takes_the_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = ROWS[-1] | {"audio": str(UNSEEN / ROWS[-1]["audio"])}
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    assert main([NAME, str(tmp_path / "one.jsonl"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["clips"] == 1
