"""``rdsdk export --lm``: an artefact with a search of its own, and the files that go with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import rdsdk
from mobile_export.executorch import Exported, export
from mobile_export.verify import examine
from mobile_export.word_errors import word_errors
from rdsdk import cli
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ExportError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from tests.mobile_export.conftest import SMALL, make_checkpoint
from tests.mobile_export.test_export_cli import lowered

__all__ = ["lowered"]

SPEECH = sorted((Path(__file__).parents[1] / "assets" / "speech").glob("*.flac"))[0]


@pytest.fixture
def lm(tmp_path: Path, write_arpa: Callable[..., Path]) -> Path:
    path = tmp_path / "elsewhere" / "two-words.arpa"
    path.parent.mkdir()
    return write_arpa(path, "I", "A")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    row = {"id": "a", "audio": str(SPEECH), "seconds": rdsdk.duration_seconds(SPEECH), "text": "A"}
    path = tmp_path / "clips.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


@pytest.mark.usefixtures("lowered")
def test_the_card_says_how_and_the_files_lie_beside(
    small: Checkpoint,
    small_int8: Exported,
    lm: Path,
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = checkpoint.save(tmp_path / "checkpoint", small)
    output = tmp_path / "out" / "small.pte"
    output.parent.mkdir()
    options = ["--lm", str(lm), "--lm-weight", "0.2", "--beam=9", "--manifest", str(clips)]
    assert cli.main(["export", str(folder), "-o", str(output), *options]) == 0
    assert {path.name for path in output.parent.iterdir()} == {
        "small.pte",
        "small.pte.report.json",
        "two-words.arpa",
    }
    recognizer = rdsdk.load(output)
    copied = output.parent / lm.name
    assert copied.read_text() == lm.read_text()
    assert recognizer.search == BeamSettings(lm=copied, lm_weight=0.2, beam_size=9)
    found = " ".join(segment.text for segment in recognizer.transcribe(SPEECH))
    assert found
    assert set(found.split()) <= {"I", "A"}
    greedy = " ".join(segment.text for segment in recognizer.transcribe(SPEECH, beam="greedy"))
    assert not set(greedy.split()) <= {"I", "A"}
    # Word errors are those of the search, for the checkpoint and for the artefact.
    words = json.loads(output.with_name("small.pte.report.json").read_text())["words"]
    plain = examine(small, small_int8.path, clips).words
    assert words["checkpoint_wer"] != plain["checkpoint_wer"]
    assert cli.main(["info", str(output)]) == 0
    assert "two-words.arpa" in capsys.readouterr().out


def test_word_errors_see_a_difference_through_a_search(
    small: Checkpoint, lm: Path, clips: Path
) -> None:
    """The negative control: the log_probs of another student do not pass for this one's."""
    from rdsdk.evaluation.hearing import heard_log_probs

    other = make_checkpoint(SMALL, seed=9).student
    search = BeamSettings(lm=lm)
    same = word_errors(small, lambda x: heard_log_probs(small.student, x), clips, search)
    assert (same.lost, same.differing_clips) == (0.0, 0)
    assert word_errors(small, lambda x: heard_log_probs(other, x), clips, search).differing_clips


def test_what_cannot_be_searched_is_refused_before_the_long_work(
    small: Checkpoint, lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint.save(tmp_path / "checkpoint", small)
    command = ["export", str(folder), "-o"]
    for options, says in (
        ([str(tmp_path / "a.pte"), "--lm", str(tmp_path / "none")], "there is no language model"),
        ([str(tmp_path / "kit"), "--kit", "android", "--lm", str(lm)], "kits and Core ML"),
        ([str(tmp_path / "a.mlpackage"), "--to", "mlpackage", "--beam"], "kits and Core ML"),
        ([str(tmp_path / "a.pte"), "--word-score", "1"], "goes with a language model"),
    ):
        assert cli.main([*command, *options]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "lowering" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "elsewhere"}
    (tmp_path / lm.name).write_text("A AH\n")
    alike = BeamSettings(lm=lm, lexicon=tmp_path / lm.name)
    with pytest.raises(ExportError, match="rename one"):
        export(small, tmp_path / "a.pte", search=alike)
    silent = make_checkpoint(SMALL, text=False)
    with pytest.raises(ExportError, match="writes no text"):
        export(silent, tmp_path / "a.pte", search=BeamSettings(lm=lm))
