"""A grown student says what the smaller one said, and can learn in what it gained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdsdk.errors import ConfigError
from rdsdk.models.config import preset
from rdsdk.models.growth import widened, with_lookahead
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


def test_a_student_given_lookahead_says_the_same_where_its_oldest_taps_saw_nothing() -> None:
    torch.manual_seed(0)
    student = Student(CONFIG, symbols=5, projection_width=7).eval()
    ahead = with_lookahead(student, 3).eval()
    assert ahead.config == replace(CONFIG, lookahead_frames=3)
    frames = CONFIG.position_kernel - 3
    waveform = torch.randn(2, 320 * frames + 80)
    expected, _ = student(waveform)
    output, _ = ahead(waveform)
    torch.testing.assert_close(output.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    # From there on the taps that it gave up are missing.
    longer = torch.randn(1, 320 * 3 * frames + 80)
    moved = student(longer)[0].log_probs - ahead(longer)[0].log_probs
    assert moved[:, :8].abs().max() < 1e-5  # the chunk before
    assert moved[:, frames:].abs().max() > 1e-4

    # The new taps learn, and then a later frame is heard.
    gain = ahead.encoder.position_conv.conv.parametrizations.weight.original0
    output.log_probs[..., 1].sum().backward()
    assert gain.grad is not None
    assert (gain.grad[..., -3:] != 0).all()
    assert (gain[..., -3:] == 0).all()
    # They can turn as fast as the others.
    direction = ahead.encoder.position_conv.conv.parametrizations.weight.original1
    assert 0.5 < direction[..., -3:].std() / direction[..., :-3].std() < 2
    # More is added to what is there; what is there is not taken away.
    assert with_lookahead(ahead, 4).config.lookahead_frames == 4
    with pytest.raises(ConfigError, match="at least the 3"):
        with_lookahead(ahead, 2)
    with pytest.raises(ConfigError, match="lookahead_frames must be 0 to"):
        with_lookahead(student, CONFIG.position_kernel)
