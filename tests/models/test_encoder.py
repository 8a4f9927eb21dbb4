"""Streaming equals offline, nothing sees past its chunk, padding changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdsdk.models.config import Context, EncoderConfig, preset, reuse_pattern
from rdsdk.models.extractor import frame_count
from rdsdk.models.student import Student

Make = Callable[..., Student]
HOP, OVERLAP = 320, 80


def sound(frames: int, rows: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(rows, HOP * frames + OVERLAP, generator=generator)


def with_context(chunk_frames: int, left_frames: int) -> EncoderConfig:
    return replace(preset("tiny"), context=Context(chunk_frames, left_frames))


def stream(student: Student, waveform: Tensor, chunk_frames: int) -> tuple[Tensor, Tensor]:
    state, log_probs, hidden = None, [], []
    step = HOP * chunk_frames
    for start in range(0, waveform.shape[1] - OVERLAP, step):
        output, state = student(waveform[:, start : start + step + OVERLAP], state)
        assert output.log_probs is not None
        log_probs.append(output.log_probs)
        hidden.append(output.hidden[-1])
    return torch.cat(log_probs, 1), torch.cat(hidden, 1)


@pytest.mark.parametrize(("chunk", "left"), [(1, 16), (2, 5), (4, 0), (8, 16), (24, 48)])
@torch.no_grad()
def test_streaming_equals_offline_at_every_chunk_size(
    make_student: Make, chunk: int, left: int
) -> None:
    student = make_student(with_context(chunk, left))
    waveform = sound(chunk * 7)
    offline, _ = student(waveform)
    log_probs, hidden = stream(student, waveform, chunk)
    torch.testing.assert_close(log_probs, offline.log_probs, atol=5e-5, rtol=0)
    torch.testing.assert_close(hidden, offline.hidden[-1], atol=5e-5, rtol=0)


@torch.no_grad()
def test_streaming_that_forgets_its_state_does_not_equal_offline(make_student: Make) -> None:
    student = make_student()
    waveform = sound(8 * 4)
    offline, _ = student(waveform)
    assert offline.log_probs is not None
    forgetful = [
        student(waveform[:, HOP * 8 * i : HOP * 8 * (i + 1) + OVERLAP])[0].log_probs
        for i in range(4)
    ]
    assert (torch.cat(forgetful, 1) - offline.log_probs).abs().max() > 1e-2  # type: ignore[arg-type]


@torch.no_grad()
def test_several_chunks_at_once_equal_one_by_one(make_student: Make) -> None:
    student = make_student()
    waveform = sound(8 * 6)
    one_by_one, _ = stream(student, waveform, 8)
    pairs, _ = stream(student, waveform, 16)
    torch.testing.assert_close(pairs, one_by_one, atol=5e-5, rtol=0)


@torch.no_grad()
def test_a_later_sample_changes_nothing_before_its_chunk(make_student: Make) -> None:
    student = make_student()
    before = sound(32)
    after = before.clone()
    # Frame t covers [320 t, 320 t + 400): this sample is first heard by frame 16, chunk 2.
    after[:, HOP * 16 + OVERLAP :] += sound(32, seed=5)[:, HOP * 16 + OVERLAP :]
    a, _ = student(before)
    b, _ = student(after)
    assert a.log_probs is not None
    assert b.log_probs is not None
    assert torch.equal(a.log_probs[:, :16], b.log_probs[:, :16])
    # Inside a chunk every frame sees the whole chunk: the look-ahead that the card declares.
    after = before.clone()
    after[:, HOP * 15 + OVERLAP] += 0.5
    c, _ = student(after)
    assert c.log_probs is not None
    assert torch.equal(a.log_probs[:, :8], c.log_probs[:, :8])
    assert (a.log_probs[:, 8:15] - c.log_probs[:, 8:15]).abs().max() > 1e-4


@torch.no_grad()
def test_the_left_context_is_exactly_as_long_as_declared(make_student: Make) -> None:
    config = replace(with_context(4, 8), map_owner=(0,), position_kernel=1)
    student = make_student(config)
    far, near = sound(40), sound(40)
    # One layer, one tap: chunk 8 (frames 32..35) sees frames 24 and later, nothing earlier.
    far[:, HOP * 23 : HOP * 24] += 0.3
    near[:, HOP * 24 + OVERLAP : HOP * 25] += 0.3
    base, _ = student(sound(40))
    for changed, same in ((far, False), (near, False)):
        output, _ = student(changed)
        moved = (output.log_probs - base.log_probs)[:, 32:36].abs().max()  # type: ignore[operator]
        assert (moved > 1e-5) is not same
    earliest = sound(40)
    earliest[:, HOP * 22 : HOP * 23] += 0.3
    output, _ = student(earliest)
    assert torch.equal(output.log_probs[:, 32:36], base.log_probs[:, 32:36])  # type: ignore[index]


@pytest.mark.parametrize("context", ["configured", "full"])
@torch.no_grad()
def test_padding_changes_nothing_of_a_shorter_row(make_student: Make, context: str) -> None:
    student = make_student()
    waveform = sound(40, rows=2)
    short = HOP * 19 + OVERLAP + 7
    waveform[1, short:] = 0.25
    both, _ = student(
        waveform, sample_counts=torch.tensor([waveform.shape[1], short]), context=context
    )
    alone, _ = student(waveform[1:, :short], context=context)
    frames = frame_count(short)
    torch.testing.assert_close(both.log_probs[1:, :frames], alone.log_probs, atol=5e-5, rtol=0)
    unmasked, _ = student(waveform, context="full")
    assert (unmasked.log_probs[1:, :frames] - alone.log_probs).abs().max() > 1e-3  # type: ignore[index]


@torch.no_grad()
def test_with_time_normalisation_only_equal_lengths_are_independent(make_student: Make) -> None:
    config = replace(preset("tiny"), context=None, position="centred", extractor_norm="group")
    student = make_student(config)
    waveform = sound(30, rows=3)
    together, _ = student(waveform)
    alone, _ = student(waveform[1:2])
    torch.testing.assert_close(together.log_probs[1:2], alone.log_probs, atol=5e-5, rtol=0)
    # What cannot hold: its statistics over time see the padding.
    padded = torch.nn.functional.pad(waveform[1:2], (0, HOP * 20))
    output, _ = student(padded, sample_counts=torch.tensor([waveform.shape[1]]))
    assert (output.log_probs[:, :30] - alone.log_probs).abs().max() > 1e-3  # type: ignore[index]


@torch.no_grad()
def test_rows_of_padding_alone_give_no_nan(make_student: Make) -> None:
    student = make_student()
    output, state = student(sound(16, rows=2), sample_counts=torch.tensor([HOP * 16 + OVERLAP, 0]))
    assert output.log_probs is not None
    assert output.log_probs.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in state)


@torch.no_grad()
def test_frame_masks_replace_frames_by_the_mask_embedding(make_student: Make) -> None:
    student = make_student()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 3:6] = True
    a, b = sound(16), sound(16)
    b[:, HOP * 3 + OVERLAP : HOP * 6] = 0.0  # heard by the masked frames alone
    with_a, _ = student(a, frame_mask=mask)
    with_b, _ = student(b, frame_mask=mask)
    torch.testing.assert_close(with_a.log_probs, with_b.log_probs)
    without, _ = student(b)
    assert (without.log_probs - with_b.log_probs).abs().max() > 1e-3  # type: ignore[operator]


@torch.no_grad()
def test_reuse_layers_apply_the_owners_map_itself(make_student: Make) -> None:
    config = replace(
        preset("tiny"), context=None, position="centred", map_owner=reuse_pattern("2by2", 4)
    )
    student = make_student(config)
    maps = []
    for layer in student.encoder.layers:
        layer.attention_output.register_forward_pre_hook(
            lambda module, arguments: maps.append(arguments[1])
        )
    student(sound(20))
    assert [m is maps[o] for m, o in zip(maps, config.map_owner, strict=True)] == [True] * 4
    assert maps[0] is not maps[2]

    maps.clear()
    again = make_student(replace(config, reused_map="softmax_again"))
    for layer in again.encoder.layers:
        layer.attention_output.register_forward_pre_hook(
            lambda module, arguments: maps.append(arguments[1])
        )
    again(sound(20))
    torch.testing.assert_close(maps[1], maps[0].softmax(dim=-1))
    # The released behaviour: the second softmax leaves next to nothing of the map.
    assert maps[1].std() < 0.2 * maps[0].std()


def test_only_owner_layers_have_queries_and_keys(make_student: Make) -> None:
    names = [n for n, _ in make_student().named_parameters() if ".query." in n or ".key." in n]
    assert {int(name.split(".")[2]) for name in names} == set(preset("tiny").owners)


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 16_079, 16_080])
@torch.no_grad()
def test_frames_follow_the_contract(make_student: Make, samples: int) -> None:
    student = make_student()
    frames = student.extractor(torch.zeros(1, samples))
    assert frames.shape == (1, (samples - 80) // 320, 24)
    assert frames.shape[1] == frame_count(samples)
