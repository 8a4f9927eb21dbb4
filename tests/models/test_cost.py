"""Counted MACs are those that torch counts while the real modules run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from rdsdk.models.config import Context, preset, reuse_pattern
from rdsdk.models.cost import macs, macs_per_second, parameter_count, student_shape
from rdsdk.models.student import Student
from rdsdk.training.teacher_shape import teacher_shape

SAMPLES = 16_080


def counted(module: torch.nn.Module, *arguments: Any) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("name", "reuse"),
    [("armhubert", None), ("armhubert-s", "3by4"), ("maskhubert", None), ("tiny", None)],
)
def test_a_students_macs_are_those_of_its_modules(name: str, reuse: str | None) -> None:
    config = preset(name)
    if name == "tiny":
        config = replace(config, context=Context(8, 16, right_frames=3))
    if reuse is not None:
        config = replace(config, map_owner=reuse_pattern(reuse))
    with torch.device("meta"):
        student = Student(config, symbols=29).eval().to("meta")
        waveform = torch.zeros(1, SAMPLES)
    found = macs(student_shape(config, symbols=29), SAMPLES)
    # The modules also run the frame or two of each convolution that no output needs, and the
    # statistics of the first norm.
    assert found.total < counted(student, waveform) < 1.0015 * found.total
    # Negative control: another reuse pattern costs something else.
    other = replace(config, map_owner=(0,) * config.layers)
    assert 1.0015 * macs(student_shape(other, symbols=29), SAMPLES).total < found.total


def test_projection_heads_are_counted() -> None:
    config = preset("armhubert")
    with torch.device("meta"):
        student = Student(config, projection_width=768).eval()
        hidden = [torch.zeros(1, 50, 480) for _ in range(12)]

    class Heads(torch.nn.Module):
        def forward(self) -> list[torch.Tensor]:
            return student.project(hidden)

    assert macs(student_shape(config, 768), SAMPLES).heads == counted(Heads())
    assert parameter_count(config, 768) == 26_448_448


@pytest.mark.parametrize(
    ("source", "model", "config"),
    [
        ("facebook/hubert-base-ls960", HubertModel, HubertConfig()),
        ("microsoft/wavlm-base", WavLMModel, WavLMConfig()),
        ("torchaudio:WAV2VEC2_BASE", Wav2Vec2Model, Wav2Vec2Config()),
    ],
)
def test_a_teachers_macs_are_those_of_transformers(source: str, model: Any, config: Any) -> None:
    shape = teacher_shape(source)
    with torch.device("meta"):
        teacher = model(config).eval()
        waveform = torch.zeros(1, SAMPLES)
    found = macs(shape.cost, SAMPLES)
    # transformers computes one position more of the position convolution and drops it.
    extra = found.position // 50
    assert found.total + extra == counted(teacher, waveform)
    assert shape.parameters == sum(p.numel() for p in teacher.parameters())
    assert (shape.layers, shape.width, shape.heads) == (12, 768, 12)


def test_published_ratios_come_out() -> None:
    teacher = teacher_shape("facebook/hubert-base-ls960")
    whole = macs_per_second(teacher.cost)
    # HuBERT's pre-training head (a projection to 256 and 504 labels) is in the published 94.7 M.
    assert round((teacher.parameters + 768 * 256 + 256 + 504 * 256) / 1e6, 1) == 94.7
    for name, share, mac_share in (("armhubert", 0.28, 0.30), ("armhubert-s", 0.237, 0.27)):
        parameters = parameter_count(preset(name), 768)
        assert parameters / teacher.parameters == pytest.approx(share, abs=0.002)
        ours = macs_per_second(student_shape(preset(name), 768))
        assert ours / whole == pytest.approx(mac_share, abs=0.005)
    # As the authors count: 449.4 of 1669 GMACs for ARMHuBERT-S.
    small = macs_per_second(student_shape(preset("armhubert-s"), 768))
    assert small / whole == pytest.approx(449.4 / 1669, abs=0.005)
