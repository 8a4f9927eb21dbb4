"""Against an independent implementation: transformers' HubertModel with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import HubertModel

from rdsdk.models.config import EncoderConfig, extractor_convs, reuse_pattern
from rdsdk.models.student import Student
from tests.models import hubert_shape

CONFIG = EncoderConfig(
    convs=extractor_convs(12, 16, 20),
    width=32,
    ffn=40,
    heads=4,
    map_owner=reuse_pattern("none", 3),
    position_kernel=16,
    position_groups=4,
)

SHARPER = 40.0
"""Random attention is nearly flat and would hide a wrong map."""


def hubert_like(config: EncoderConfig) -> HubertModel:
    torch.manual_seed(3)
    return hubert_shape.hubert_like(config)


def student_of(hubert: HubertModel, config: EncoderConfig) -> Student:
    student = hubert_shape.student_of(hubert, config)
    for layer in student.encoder.layers:
        for linear in (layer.attention_map.query, layer.attention_map.key):  # type: ignore[union-attr]
            linear.weight.data.mul_(SHARPER)  # type: ignore[union-attr,operator]
    return student


def sharpened(hubert: HubertModel) -> HubertModel:
    for layer in hubert.encoder.layers:
        for linear in (layer.attention.q_proj, layer.attention.k_proj):
            linear.weight.data.mul_(SHARPER)
    return hubert


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_without_reuse_every_hidden_state_equals_transformers(norm: str) -> None:
    config = replace(CONFIG, extractor_norm=norm, conv_bias=norm == "layer")
    hubert = hubert_like(config)
    student = student_of(hubert, config)
    waveform = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    expected = sharpened(hubert)(waveform, output_hidden_states=True).hidden_states[1:]
    output, _ = student(waveform)
    for ours, theirs in zip(output.hidden, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padded_rows_equal_transformers_attention_mask() -> None:
    config = replace(CONFIG, extractor_norm="layer", conv_bias=True)
    hubert = hubert_like(config)
    student = student_of(hubert, config)
    waveform = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([16_000, 9_000])
    waveform[1, 9_000:] = 0
    mask = torch.arange(16_000) < counts[:, None]
    expected = sharpened(hubert)(waveform, attention_mask=mask.long()).last_hidden_state
    output, _ = student(waveform, sample_counts=counts)
    torch.testing.assert_close(output.hidden[-1][1, :27], expected[1, :27], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_comparison_notices_a_reused_map() -> None:
    hubert = hubert_like(CONFIG)
    student = student_of(hubert, CONFIG)
    student.encoder.config = replace(CONFIG, map_owner=(0, 0, 2))
    waveform = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    output, _ = student(waveform)
    expected = sharpened(hubert)(waveform).last_hidden_state
    assert (output.hidden[-1] - expected).abs().max() > 1e-2
