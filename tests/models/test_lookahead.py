"""A streaming student that looks a few frames beyond its chunk: how far, and no further."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdsdk.errors import ConfigError
from rdsdk.models.config import Context, EncoderConfig, preset
from rdsdk.models.student import Student

Make = Callable[..., Student]
HOP, OVERLAP = 320, 80
CHUNK, AHEAD = 8, 3


def looking_ahead(chunk: int = CHUNK, ahead: int = AHEAD) -> EncoderConfig:
    return replace(preset("tiny"), context=Context(chunk, 16), lookahead_frames=ahead)


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


@pytest.mark.parametrize(("chunk", "ahead"), [(8, 3), (4, 1), (2, 5), (1, 4)])
@torch.no_grad()
def test_streaming_equals_offline(make_student: Make, chunk: int, ahead: int) -> None:
    student = make_student(looking_ahead(chunk, ahead))
    waveform = sound(chunk * 6 + ahead)
    offline, _ = student(waveform)
    assert offline.log_probs is not None
    assert offline.log_probs.shape[1] == chunk * 6 + ahead
    streamed = stream(student, waveform, chunk)
    # The last frames of offline stand in a chunk that no stream has completed yet.
    torch.testing.assert_close(streamed, offline.log_probs[:, : chunk * 6], atol=5e-5, rtol=0)
    torch.testing.assert_close(stream(student, waveform, 2 * chunk), streamed, atol=5e-5, rtol=0)
    # A stream that is not given what follows hears its last frames otherwise.
    blind = stream(student, waveform[:, : HOP * chunk * 6 + OVERLAP], chunk, followed=False)
    assert (blind - streamed).abs().max() > 1e-3


@torch.no_grad()
def test_exactly_so_many_frames_beyond_the_chunk_are_heard(make_student: Make) -> None:
    student = make_student(looking_ahead())
    before = sound(3 * CHUNK)
    base = student(before)[0].log_probs
    for beyond, heard in ((AHEAD - 1, True), (AHEAD, False)):
        after = before.clone()
        frame = 2 * CHUNK + beyond
        # These samples lie in this frame alone.
        after[:, HOP * frame + OVERLAP : HOP * (frame + 1)] += 0.5
        moved = (student(after)[0].log_probs - base)[:, CHUNK : 2 * CHUNK].abs().max()
        assert bool(moved > 1e-5) is heard


@torch.no_grad()
def test_without_a_look_ahead_followed_changes_nothing(make_student: Make) -> None:
    student = make_student()
    waveform = sound(4 * CHUNK)
    plain, state = student(waveform)
    output, same = student(waveform, followed=True)
    assert torch.equal(output.log_probs, plain.log_probs)
    assert all(torch.equal(a, b) for a, b in zip(state, same, strict=True))


@torch.no_grad()
def test_padding_is_silence_to_the_look_ahead_too(make_student: Make) -> None:
    student = make_student(looking_ahead())
    short, frames = HOP * 13 + OVERLAP, 13
    batch = torch.cat([sound(24), sound(24, seed=1)])
    alone = student(batch[1:, :short])[0].log_probs
    counts = torch.tensor([batch.shape[1], short])
    padded = student(batch, sample_counts=counts)[0].log_probs
    torch.testing.assert_close(padded[1:, :frames], alone, atol=5e-5, rtol=0)
    heard = student(batch)[0].log_probs
    assert (heard[1:, :frames] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("ahead", [-1, 16, 1.5])
def test_an_impossible_look_ahead_is_refused(ahead: int) -> None:
    with pytest.raises(ConfigError, match="lookahead_frames must be 0 to 15"):
        replace(preset("tiny"), lookahead_frames=ahead)
    with pytest.raises(ConfigError, match="without"):
        replace(preset("tiny"), context=None, position="centred", lookahead_frames=1)


def test_a_config_of_before_has_no_look_ahead() -> None:
    value = preset("tiny").to_dict()
    del value["lookahead_frames"]
    assert EncoderConfig.from_dict(value) == preset("tiny")
