"""The blank's bias: measured, chosen within a limit, and written into the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.operating_point import Point, biased, biased_text, choose, main, word_error_rate

VOCABULARY = Vocabulary.words(["ONE", "TWO"])
# A recording of two words, another of one, and two of none.
TRUTH = ["ONE TWO", "ONE", "", ""]


def point(bias: float, *heard: str) -> Point:
    return Point(bias, error_rates(TRUTH, list(heard)))


@pytest.fixture
def source() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(Student(preset("tiny"), len(VOCABULARY)).eval(), VOCABULARY, {"a": 1})


def test_a_lower_blank_lets_words_through() -> None:
    log_probs = torch.tensor([[0.7, 0.2, 0.1], [0.9, 0.05, 0.05], [0.6, 0.1, 0.3]]).log()
    assert biased_text(log_probs, VOCABULARY, 0.0) == ""
    assert biased_text(log_probs, VOCABULARY, -1.0) == "TWO"
    assert biased_text(log_probs, VOCABULARY, -1.5) == "ONE TWO"


def test_the_fewest_errors_within_the_limit_are_chosen() -> None:
    points = [
        point(0.0, "", "ONE", "", ""),
        point(-1.0, "TWO", "ONE", "", ""),
        point(-2.0, "ONE TWO", "ONE", "TWO", ""),
        point(-3.0, "ONE TWO", "ONE ONE", "TWO", "ONE"),
    ]
    assert [word_error_rate(p.rates) for p in points] == pytest.approx([2 / 3, 1 / 3, 0, 1 / 3])
    assert choose(points, most_false=0.0).blank_bias == -1.0
    assert choose(points, most_false=0.5).blank_bias == -2.0
    with pytest.raises(ConfigError, match=r"the least is 50\.0%"):
        choose(points[2:], most_false=0.1)


def test_without_words_nothing_can_be_chosen() -> None:
    with pytest.raises(ConfigError, match="no recording has words"):
        choose([Point(0.0, error_rates(["", ""], ["", "ONE"]))], 1.0)


def test_of_two_that_are_as_good_the_smaller_change_is_chosen() -> None:
    same = ("ONE TWO", "ONE", "", "")
    assert choose([point(-1.0, *same), point(-0.5, *same)], 0.0).blank_bias == -0.5


def test_the_bias_is_written_into_a_copy(source: Checkpoint) -> None:
    waveform = torch.randn(1, 320 * 16 + 80) * 0.1
    before, _ = source.student(waveform)
    changed = biased(source, -2.0)
    after, _ = changed.student(waveform)
    again, _ = source.student(waveform)
    assert before.log_probs is not None
    assert after.log_probs is not None
    assert torch.equal(before.log_probs, again.log_probs)  # type: ignore[arg-type]
    difference = after.log_probs - before.log_probs
    # Against the words the blank lost exactly so much.
    torch.testing.assert_close(
        difference[..., 0] - difference[..., 1], torch.full((1, 16), -2.0), atol=1e-5, rtol=0
    )
    assert changed.provenance == {"a": 1, "blank_bias": -2.0}


def test_the_command_writes_a_checkpoint_in_another_context(
    source: Checkpoint,
    corpus: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    letters = Checkpoint(
        Student(preset("tiny"), len(Vocabulary.characters())).eval(), Vocabulary.characters()
    )
    folder = checkpoint.save(tmp_path / "before", letters)
    arguments = [str(folder), str(corpus[1]), "-o", str(tmp_path / "after")]
    assert main([*arguments, "--chunk-frames", "4", "--most-false", "1"]) == 0
    assert "blank bias" in capsys.readouterr().out
    after = checkpoint.load(tmp_path / "after")
    assert after.student.config.context is not None
    assert after.student.config.context.chunk_frames == 4
    assert "blank_bias" in after.provenance


def test_what_is_missing_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "dev.jsonl"), "-o", str(tmp_path / "out")]) == 2
    assert "model.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
