"""A streaming student that reads a few frames beyond its chunk: how far, and no further."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdsdk.errors import ConfigError
from rdsdk.models.checkpoint import Checkpoint, in_context
from rdsdk.models.config import Context, EncoderConfig, preset
from rdsdk.models.student import Student

Make = Callable[..., Student]
HOP, OVERLAP = 320, 80
CHUNK, RIGHT = 8, 3


def reading_on(chunk: int = CHUNK, right: int = RIGHT) -> EncoderConfig:
    return replace(preset("tiny"), context=Context(chunk, 16, right))


def sound(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, HOP * frames + OVERLAP, generator=generator)


def stream(student: Student, waveform: Tensor, frames: int, followed: bool = True) -> Tensor:
    """log_probs of calls of so many frames, each given what follows it."""
    state, log_probs = None, []
    overlap = student.config.overlap_samples if followed else OVERLAP
    for start in range(0, waveform.shape[1] - overlap, HOP * frames):
        call = waveform[:, start : start + HOP * frames + overlap]
        output, state = student(call, state, followed=followed)
        assert output.log_probs is not None
        assert output.log_probs.shape[1] == frames
        log_probs.append(output.log_probs)
    return torch.cat(log_probs, 1)


@pytest.mark.parametrize(("chunk", "right"), [(8, 3), (8, 8), (4, 1), (2, 5), (1, 4)])
@torch.no_grad()
def test_streaming_equals_offline(make_student: Make, chunk: int, right: int) -> None:
    student = make_student(reading_on(chunk, right))
    waveform = sound(chunk * 6 + right)
    offline, _ = student(waveform)
    assert offline.log_probs is not None
    assert offline.log_probs.shape[1] == chunk * 6 + right
    streamed = stream(student, waveform, chunk)
    # The last frames of offline stand in a chunk that no stream has completed yet.
    torch.testing.assert_close(streamed, offline.log_probs[:, : chunk * 6], atol=5e-5, rtol=0)
    torch.testing.assert_close(stream(student, waveform, 2 * chunk), streamed, atol=5e-5, rtol=0)
    # A stream that is not given what follows hears its last frames otherwise.
    blind = stream(student, waveform[:, : HOP * chunk * 6 + OVERLAP], chunk, followed=False)
    assert (blind - streamed).abs().max() > 1e-3


@torch.no_grad()
def test_exactly_so_many_frames_beyond_the_chunk_are_heard(make_student: Make) -> None:
    student = make_student(reading_on())
    before = sound(3 * CHUNK)
    base = student(before)[0].log_probs
    for beyond, heard in ((RIGHT - 1, True), (RIGHT, False)):
        after = before.clone()
        frame = 2 * CHUNK + beyond
        # These samples lie in this frame alone.
        after[:, HOP * frame + OVERLAP : HOP * (frame + 1)] += 0.5
        moved = (student(after)[0].log_probs - base)[:, CHUNK : 2 * CHUNK].abs().max()
        assert bool(moved > 1e-5) is heard


@torch.no_grad()
def test_without_right_context_followed_changes_nothing(make_student: Make) -> None:
    student = make_student()
    waveform = sound(4 * CHUNK)
    plain, state = student(waveform)
    output, same = student(waveform, followed=True)
    assert torch.equal(output.log_probs, plain.log_probs)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


@torch.no_grad()
def test_padding_is_no_right_context(make_student: Make) -> None:
    student = make_student(reading_on())
    short, frames = HOP * 13 + OVERLAP, 13
    batch = torch.cat([sound(24), sound(24, seed=1)])
    alone = student(batch[1:, :short])[0].log_probs
    counts = torch.tensor([batch.shape[1], short])
    padded = student(batch, sample_counts=counts)[0].log_probs
    torch.testing.assert_close(padded[1:, :frames], alone, atol=5e-5, rtol=0)
    heard = student(batch)[0].log_probs
    assert (heard[1:, :frames] - alone).abs().max() > 1e-3


@torch.no_grad()
def test_a_frame_hears_its_chunk_and_what_is_right_of_it_as_in_one_chunk(
    make_student: Make,
) -> None:
    """The first chunk and its right context are what one longer chunk is, and so is the state."""
    student = make_student(reading_on())
    waveform = sound(CHUNK + RIGHT)
    output, state = student(waveform, followed=True)
    longer, other = student(waveform, context=Context(CHUNK + RIGHT, 16))
    assert output.log_probs is not None
    assert longer.log_probs is not None
    torch.testing.assert_close(output.log_probs, longer.log_probs[:, :CHUNK], atol=5e-5, rtol=0)
    # What was only read ahead is not remembered.
    torch.testing.assert_close(state.values[..., RIGHT:, :], other.values[..., :-RIGHT, :])
    assert state.valid.sum() == CHUNK
    torch.testing.assert_close(state.positions[:, RIGHT:], other.positions[:, :-RIGHT])
    # Negative control: a chunk alone is heard otherwise.
    alone, _ = student(waveform, context=Context(CHUNK, 16))
    assert alone.log_probs is not None
    assert (alone.log_probs[:, :CHUNK] - output.log_probs).abs().max() > 1e-3


@torch.no_grad()
def test_one_set_of_weights_reads_on_as_far_as_it_is_told(make_student: Make) -> None:
    student = make_student()
    waveform = sound(4 * CHUNK)
    told, _ = student(waveform, context=Context(CHUNK, 16, RIGHT))
    source = Checkpoint(student)
    moved, _ = in_context(source, None, right_frames=RIGHT).student(waveform)
    assert torch.equal(told.log_probs, moved.log_probs)
    plain, _ = student(waveform)
    assert (told.log_probs - plain.log_probs).abs().max() > 1e-3


def test_impossible_right_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="right_frames >= 0"):
        Context(8, 16, -1)


def test_a_config_of_before_has_no_right_context() -> None:
    value = preset("tiny").to_dict()
    assert isinstance(value["context"], dict)
    del value["context"]["right_frames"]
    assert EncoderConfig.from_dict(value) == preset("tiny")
