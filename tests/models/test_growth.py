"""A grown student says what the smaller one said, and can learn in what it gained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdsdk.errors import ConfigError
from rdsdk.models.config import preset
from rdsdk.models.growth import widened
from rdsdk.models.student import Student

CONFIG = replace(preset("tiny"), dropout=0.0)


def test_a_wider_student_says_the_same_and_more_of_it_learns() -> None:
    torch.manual_seed(0)
    student = Student(CONFIG, symbols=5, projection_width=7).eval()
    wider = widened(student, 2 * CONFIG.ffn).eval()
    waveform = torch.randn(2, 8000)
    expected, _ = student(waveform)
    output, _ = wider(waveform)
    torch.testing.assert_close(output.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    assert wider.config == replace(CONFIG, ffn=2 * CONFIG.ffn)
    assert wider.projection_width == 7
    output.log_probs[..., 1].sum().backward()
    for name, parameter in wider.named_parameters():
        if name.endswith("ffn_out.weight"):
            assert (parameter[:, CONFIG.ffn :] == 0).all()
            assert parameter.grad is not None
            assert (parameter.grad[:, CONFIG.ffn :] != 0).any()
    # Were the new units to write, it would say something else.
    with torch.no_grad():
        wider.encoder.layers[0].ffn_out.weight[:, CONFIG.ffn :].normal_()
    other, _ = wider(waveform)
    assert (other.log_probs - expected.log_probs).abs().max() > 1e-3


def test_no_student_is_made_narrower() -> None:
    with pytest.raises(ConfigError, match="at least the 48"):
        widened(Student(CONFIG), 40)
