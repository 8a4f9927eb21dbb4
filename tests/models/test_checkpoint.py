from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student

PRETRAINED = Path(checkpoint.__file__).parent.parent / "pretrained"


@pytest.fixture
def folder(make_student: Callable[..., Student], tmp_path: Path) -> Path:
    vocabulary = Vocabulary.characters(["ONE", "TWO"])
    student = make_student(symbols=len(vocabulary))
    return checkpoint.save(
        tmp_path / "student", Checkpoint(student, vocabulary, {"licence": "CC0"})
    )


@torch.no_grad()
def test_a_saved_checkpoint_loads_as_the_same_model(
    make_student: Callable[..., Student], folder: Path
) -> None:
    vocabulary = Vocabulary.characters(["ONE", "TWO"])
    loaded = checkpoint.load(folder)
    waveform = 0.1 * torch.randn(1, 16_000)
    expected, _ = make_student(symbols=len(vocabulary))(waveform)
    output, _ = loaded.student(waveform)
    assert torch.equal(output.log_probs, expected.log_probs)  # type: ignore[arg-type]
    assert loaded.vocabulary == vocabulary
    assert loaded.provenance == {"licence": "CC0"}
    assert not loaded.student.training


def test_projection_heads_are_kept(tmp_path: Path) -> None:
    student = Student(preset("tiny"), projection_width=24)
    loaded = checkpoint.load(checkpoint.save(tmp_path, Checkpoint(student)))
    assert loaded.vocabulary is None
    assert loaded.student.projections is not None
    assert loaded.student.projections[0].out_features == 24


def test_a_missing_or_misshapen_or_unknown_weight_is_named(folder: Path) -> None:
    weights = load_file(folder / checkpoint.WEIGHTS)
    name = "encoder.layers.2.ffn_in.weight"
    for changed, message in (
        ({k: v for k, v in weights.items() if k != name}, rf"missing weights \(1\): {name}"),
        ({**weights, name: torch.zeros(2, 2)}, r"got \(2, 2\), expected \(48, 32\)"),
        ({**weights, "encoder.extra": torch.zeros(1)}, r"unknown weights \(1\): encoder\.extra"),
    ):
        save_file(changed, folder / checkpoint.WEIGHTS)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(folder)


def test_damaged_files_are_typed_errors(folder: Path, tmp_path: Path) -> None:
    weights = folder / checkpoint.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.load(folder)
    (folder / checkpoint.DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.load(folder)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path)


def test_a_bundled_model_is_loaded_by_its_name(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load("digits")
    assert loaded.provenance["licence"] == "CC BY-SA 4.0"
    assert checkpoint.located("digits") == PRETRAINED / "digits"
    # A path is a path, and a folder of that name is that folder.
    assert checkpoint.located("some/digits") == Path("some/digits")
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "digits")
    assert checkpoint.load("digits").provenance == {"licence": "CC0"}
    with pytest.raises(CheckpointError, match="the name of a bundled model"):
        checkpoint.load("digit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "newer rdsdk"),
        ({"format": "other"}, "does not describe an rdsdk checkpoint"),
        ({"architecture": {"width": 3}}, "misses the fields"),
        ({"architecture": 3}, "must be an object"),
        ({"surplus": 1}, "surplus"),
        ({"vocabulary": {"symbols": 3}}, "vocabulary"),
    ],
)
def test_a_wrong_description_is_a_typed_error(
    folder: Path, change: dict[str, object], message: str
) -> None:
    path = folder / checkpoint.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def test_an_interrupted_save_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / checkpoint.WEIGHTS).read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(folder, Checkpoint(Student(preset("tiny"))))
    assert (folder / checkpoint.WEIGHTS).read_bytes() == before
