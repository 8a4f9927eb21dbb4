"""A student behind the interface that s3prl asks of its upstreams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.evaluation.superb import rdsdk_local
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.student import Student
from rdsdk.training.student_teacher import StudentTeacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return checkpoint.save(tmp_path / "student", checkpoint.Checkpoint(Student(preset("tiny"))))


def test_each_recording_gets_the_hidden_states_it_has_alone(folder: Path) -> None:
    upstream = rdsdk_local(str(folder)).eval()
    student = checkpoint.load(folder).student
    recordings = [0.1 * torch.randn(samples) for samples in (16_000, 9_777, 24_240)]
    with torch.no_grad():
        states = upstream(recordings)["hidden_states"]
        assert len(states) == student.config.layers + 1
        for row, recording in enumerate(recordings):
            alone, _ = student(recording[None])
            frames = alone.hidden[0].shape[1]
            assert frames == len(recording) // upstream.get_downsample_rates("PR") - (
                1 if len(recording) % 320 < 80 else 0
            )
            for layer, expected in enumerate(alone.hidden, start=1):
                torch.testing.assert_close(
                    states[layer][row, :frames], expected[0], atol=1e-4, rtol=1e-4
                )
    # What enters the first layer too, as `rdsdk probe` mixes it.
    probed = StudentTeacher(student, "random").hidden_states(
        recordings[0][None], torch.tensor([16_000])
    )
    torch.testing.assert_close(states[0][0, :49], probed[0][0], atol=1e-4, rtol=1e-4)
    # Negative control: the next recording's states are others.
    assert (states[-1][0, :20] - states[-1][2, :20]).abs().max() > 1e-2


def test_right_context_is_in_no_hidden_state(tmp_path: Path) -> None:
    config = replace(preset("tiny"), context=Context(8, 16, right_frames=3))
    folder = checkpoint.save(tmp_path / "student", checkpoint.Checkpoint(Student(config)))
    recording = [0.1 * torch.randn(16_000)]
    with torch.no_grad():
        states = rdsdk_local(str(folder)).eval()(recording)["hidden_states"]
        whole = rdsdk_local(str(folder), "full").eval()(recording)["hidden_states"]
    assert {state.shape for state in states} == {(1, 49, 32)}
    torch.testing.assert_close(states[0], whole[0], atol=1e-5, rtol=0)


def test_the_context_can_be_chosen(folder: Path) -> None:
    recording = [0.1 * torch.randn(32_080)]
    said = {}
    with torch.no_grad():
        for choice in (None, "full", "8", "16"):
            upstream = rdsdk_local(str(folder), choice).eval()
            said[choice] = upstream(recording)["hidden_states"][-1]
    torch.testing.assert_close(said[None], said["8"])
    for other in ("full", "16"):
        assert (said[None] - said[other]).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="number of frames"):
        rdsdk_local(str(folder), "some.yaml")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        rdsdk_local(str(tmp_path))


def test_a_recording_shorter_than_a_frame_gives_one(folder: Path) -> None:
    states = rdsdk_local(str(folder)).eval()([torch.zeros(100)])["hidden_states"]
    assert all(state.shape[:2] == (1, 1) for state in states)
