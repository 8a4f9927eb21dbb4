"""Our own checkpoints as teachers, against the Student itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distil_setup import write_recipe
from tiny_teachers import batch, every_other_span, tiny

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, EncoderConfig, preset
from rdsdk.models.student import Student
from rdsdk.training.distill import main as distil
from rdsdk.training.student_teacher import StudentTeacher, copy_extractor
from rdsdk.training.teacher_shape import teacher_shape
from rdsdk.training.teachers import load_teacher
from rdsdk.training.transformers_teacher import TransformersTeacher

STREAMING = preset("tiny")
FULL = replace(
    STREAMING, context=None, position="centred", extractor_norm="group", map_owner=(0, 0, 2, 0)
)


def sharp(config: EncoderConfig) -> Student:
    torch.manual_seed(2)
    student = Student(config, projection_width=24).eval()
    with torch.no_grad():
        for name, parameter in student.encoder.layers.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(24.0 if ".attention_map." in name else 6.0)
    return student


@pytest.mark.parametrize("config", [STREAMING, FULL], ids=["streaming", "full"])
@pytest.mark.parametrize("one_batch", [True, False])
@torch.no_grad()
def test_a_checkpoint_folder_gives_what_the_student_gives(
    tmp_path: Path, config: EncoderConfig, one_batch: bool
) -> None:
    student = sharp(config)
    checkpoint.save(tmp_path / "mine", checkpoint.Checkpoint(student))
    teacher = load_teacher(tmp_path / "mine", one_batch=one_batch)
    assert (teacher.name, teacher.layers, teacher.width, teacher.heads) == ("mine", 4, 32, 4)
    waveforms, counts = batch()
    mask = every_other_span(counts)
    output = teacher(waveforms, counts, mask)
    assert output.masked is not None
    plain, _ = student(waveforms, sample_counts=counts)
    masked, _ = student(waveforms, sample_counts=counts, frame_mask=mask)
    torch.testing.assert_close(output.unmasked, plain.hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.masked, masked.hidden, atol=1e-5, rtol=0)
    # Negative controls: the other pass, and padding that is not hidden.
    assert (output.masked[-1] - plain.hidden[-1]).abs().max() > 1e-2
    unhidden, _ = student(waveforms)
    assert (output.unmasked[-1][1, :27] - unhidden.hidden[-1][1, :27]).abs().max() > 1e-2


@torch.no_grad()
def test_a_bundled_student_teaches_by_its_name_in_chunks_or_whole_recordings() -> None:
    student = checkpoint.load("digits").student
    waveforms, counts = batch()
    chunks, whole = (
        load_teacher("digits", whole=whole)(waveforms, counts, None).unmasked
        for whole in (False, True)
    )
    for heard, context in ((chunks, "configured"), (whole, "full")):
        expected, _ = student(waveforms, sample_counts=counts, context=context)
        torch.testing.assert_close(heard, expected.hidden, atol=1e-4, rtol=0)
    shape = teacher_shape("digits")
    assert (shape.layers, shape.width) == (student.config.layers, student.config.width)
    assert shape.parameters == student.parameter_count() - sum(
        parameter.numel() for parameter in student.ctc_head.parameters()
    )


def test_a_recipe_says_whether_a_streaming_teacher_hears_whole_recordings(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "mine", checkpoint.Checkpoint(sharp(STREAMING)))
    learnt = []
    for name, options in {"chunks": [], "again": ["whole=false"], "whole": ["whole=true"]}.items():
        recipe = write_recipe(tmp_path, folder, output=str(tmp_path / name))
        few = ["optimisation.steps=2", "validate_every_steps=2", *options]
        assert distil(["--config", str(recipe), *few]) == 0
        learnt.append(checkpoint.load(tmp_path / name / "last").student.state_dict())
    chunks, again, whole = learnt
    assert all(torch.equal(chunks[name], again[name]) for name in chunks)
    assert not all(torch.equal(chunks[name], whole[name]) for name in chunks)


@torch.no_grad()
def test_all_hidden_states_begin_with_what_enters_the_first_layer() -> None:
    student = sharp(STREAMING)
    waveforms, counts = batch()
    entered = []
    hook = student.encoder.layers[0].register_forward_pre_hook(
        lambda module, arguments: entered.append(arguments[0])
    )
    plain, _ = student(waveforms, sample_counts=counts)
    whole, _ = student(waveforms, sample_counts=counts, context="full")
    hook.remove()
    states = StudentTeacher(student, "mine").hidden_states(waveforms, counts)
    torch.testing.assert_close(states, [entered[0], *plain.hidden], atol=1e-5, rtol=0)
    states = StudentTeacher(student, "mine", whole=True).hidden_states(waveforms, counts)
    torch.testing.assert_close(states, [entered[1], *whole.hidden], atol=1e-5, rtol=0)
    # Negative controls: the first state is no layer's, and the context shows.
    assert (states[0] - states[1]).abs().max() > 1e-2
    assert (plain.hidden[-1] - whole.hidden[-1]).abs().max() > 1e-2


@torch.no_grad()
def test_the_maps_are_the_owners_by_hand() -> None:
    student = sharp(FULL)
    waveforms, counts = batch()
    maps = StudentTeacher(student, "mine").attention_maps(waveforms, counts)
    entered = []
    for layer in student.encoder.layers:
        layer.register_forward_pre_hook(lambda module, arguments: entered.append(arguments[0]))
    student(waveforms, sample_counts=counts)
    seen = torch.arange(49) < torch.tensor([49, 27])[:, None]
    for layer, owner in enumerate(FULL.map_owner):
        own = student.encoder.layers[owner].attention_map
        queries = own.query(entered[owner]).unflatten(-1, (4, 8)).transpose(1, 2)
        keys = own.key(entered[owner]).unflatten(-1, (4, 8)).transpose(1, 2)
        logits = queries @ keys.transpose(-1, -2) / 8**0.5
        logits = logits.masked_fill(~seen[:, None, None], float("-inf"))
        torch.testing.assert_close(maps[layer], logits.softmax(-1), atol=1e-5, rtol=0)
    assert torch.equal(maps[0], maps[3])
    assert (maps[0] - maps[2]).abs().max() > 1e-2


@torch.no_grad()
def test_a_streaming_map_sees_its_chunks_only() -> None:
    waveforms, counts = batch()
    (first, *_) = StudentTeacher(sharp(STREAMING), "mine").attention_maps(waveforms, counts)
    assert first.shape == (2, 4, 49, 49)
    torch.testing.assert_close(first[0].sum(-1), torch.ones(4, 49))
    torch.testing.assert_close(first[1, :, :27].sum(-1), torch.ones(4, 27))
    assert first[0, :, 0, 8:].abs().max() == 0  # chunks of 8 frames
    assert first[0, :, 0, :8].min() > 0


@torch.no_grad()
def test_right_context_is_weight_on_its_frames_and_no_hidden_state() -> None:
    config = replace(STREAMING, context=Context(chunk_frames=8, left_frames=16, right_frames=3))
    student = sharp(config)
    waveforms, counts = batch()
    teacher = StudentTeacher(student, "mine")
    first, *_ = teacher.attention_maps(waveforms, counts)
    assert first.shape == (2, 4, 49, 49)
    torch.testing.assert_close(first[0].sum(-1), torch.ones(4, 49))
    torch.testing.assert_close(first[1, :, :27].sum(-1), torch.ones(4, 27))
    assert first[0, :, 0, :11].min() > 0  # a chunk of 8 frames and 3 behind it
    assert first[0, :, 0, 11:].abs().max() == 0
    # By hand: among the frames that it sees, a frame of the first chunk has the weights that it has
    # where all are seen.
    whole, *_ = StudentTeacher(student, "mine", whole=True).attention_maps(waveforms, counts)
    expected = whole[..., :8, :11] / whole[..., :8, :11].sum(-1, keepdim=True)
    torch.testing.assert_close(first[..., :8, :11], expected, atol=1e-5, rtol=0)
    states = teacher.hidden_states(waveforms, counts)
    assert {state.shape for state in states} == {(2, 49, 32)}
    seen_whole = StudentTeacher(student, "mine", whole=True).hidden_states(waveforms, counts)
    torch.testing.assert_close(states[0][0], seen_whole[0][0], atol=1e-5, rtol=0)
    assert (states[-1] - seen_whole[-1]).abs().max() > 1e-2


def test_no_gradient_reaches_it() -> None:
    student = sharp(FULL)
    teacher = StudentTeacher(student, "mine").train()
    waveforms, counts = batch()
    output = teacher(waveforms, counts, every_other_span(counts))
    assert not output.unmasked[0].requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not student.training


def test_damage_and_options_that_mean_nothing_here_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, checkpoint.Checkpoint(sharp(FULL)))
    with pytest.raises(ConfigError, match="leave mask_padding and normalize out"):
        load_teacher(tmp_path, normalize=True)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        load_teacher(tmp_path)


@torch.no_grad()
def test_a_student_can_start_from_its_teachers_extractor() -> None:
    teacher = StudentTeacher(sharp(FULL), "mine")
    torch.manual_seed(9)
    student = Student(replace(FULL, width=16, ffn=8, map_owner=(0, 0, 2, 2)))
    waveforms, _ = batch()
    wanted = teacher.student.encoder.frame_norm(teacher.student.extractor(waveforms))

    def given() -> torch.Tensor:
        return student.encoder.frame_norm(student.extractor(waveforms))

    assert (given() - wanted).abs().max() > 1e-2
    copy_extractor(teacher, student, frozen=False)
    torch.testing.assert_close(given(), wanted)
    assert all(parameter.requires_grad for parameter in student.parameters())
    copy_extractor(teacher, student, frozen=True)
    still = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert still
    assert all(n.startswith(("extractor.", "encoder.frame_norm.")) for n in still)
    # The copy is the student's own: what it learns on does not reach the teacher.
    student.extractor.convs[0].weight.add_(1.0)
    again = teacher.student.encoder.frame_norm(teacher.student.extractor(waveforms))
    torch.testing.assert_close(again, wanted)


def test_an_extractor_is_not_copied_from_another_architecture() -> None:
    student = Student(replace(FULL, extractor_norm="layer"))
    with pytest.raises(ConfigError, match="whose extractor_norm is group; the student's is layer"):
        copy_extractor(StudentTeacher(sharp(FULL), "mine"), student, frozen=True)
    hubert = TransformersTeacher(tiny("hubert", large=False), "hubert")
    with pytest.raises(ConfigError, match="rdsdk checkpoints only"):
        copy_extractor(hubert, student, frozen=True)
