"""A grown student says what the smaller one said, and can learn in what it gained; a narrowed one
loses what said least."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdsdk.errors import ConfigError
from rdsdk.models.config import Context, preset
from rdsdk.models.growth import doubled, narrowed, widened
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


def test_the_units_that_say_nothing_are_those_that_go() -> None:
    torch.manual_seed(0)
    student = Student(CONFIG, symbols=5, projection_width=7).eval()
    expected, _ = student(torch.ones(1, 8000))
    wider = widened(student, 2 * CONFIG.ffn).eval()
    mixed = torch.randperm(2 * CONFIG.ffn)
    with torch.no_grad():
        for layer in wider.encoder.layers:
            layer.ffn_in.weight.copy_(layer.ffn_in.weight[mixed])
            layer.ffn_in.bias.copy_(layer.ffn_in.bias[mixed])
            layer.ffn_out.weight.copy_(layer.ffn_out.weight[:, mixed])
    again = narrowed(wider, CONFIG.ffn).eval()
    assert again.config == CONFIG
    assert again.projection_width == 7
    output, _ = again(torch.ones(1, 8000))
    torch.testing.assert_close(output.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    # One unit less, and it says something else: the last one said something.
    other, _ = narrowed(again, CONFIG.ffn - 1).eval()(torch.ones(1, 8000))
    assert (other.log_probs - expected.log_probs).abs().max() > 1e-3


@pytest.mark.parametrize("ffn", [0, 49])
def test_units_that_are_not_there_cannot_stay(ffn: int) -> None:
    with pytest.raises(ConfigError, match=f"ffn is {ffn}, expected 1 to the 48"):
        narrowed(Student(CONFIG), ffn)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_a_doubled_student_says_the_same_and_its_copies_part(
    streams: bool, projected: bool
) -> None:
    torch.manual_seed(0)
    config = CONFIG.streaming(Context(4, 8, 2)) if streams else CONFIG
    channels = 40 if projected else config.width
    last = replace(config.convs[-1], channels=channels)
    config = replace(config, convs=(*config.convs[:-1], last))
    student = Student(config, symbols=5, projection_width=7).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    wider = doubled(student).eval()
    assert wider.config.width == 2 * config.width
    assert wider.config.heads == config.heads
    waveform = torch.randn(2, 8000)
    expected, _ = student(waveform)
    output, _ = wider(waveform)
    torch.testing.assert_close(output.log_probs, expected.log_probs, atol=1e-4, rtol=1e-4)
    for grown, small in zip(output.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(grown, torch.cat([small, small], -1), atol=1e-4, rtol=1e-4)
    # A copy that learnt nothing of its own would be of no use.
    optimiser = torch.optim.SGD(wider.parameters(), lr=0.1)
    for _ in range(3):
        output, _ = wider(waveform)
        output.log_probs[..., 1].mean().neg().backward()
        optimiser.step()
        optimiser.zero_grad()
    first, second = wider(waveform)[0].hidden[-1].chunk(2, dim=-1)
    assert (first - second).abs().max() > 1e-2
    # Were both to read all of what they read, it would say something else.
    with torch.no_grad():
        wider = doubled(student, noise=0.0).eval()
        wider.encoder.layers[0].ffn_in.weight.mul_(2)
        other, _ = wider(waveform)
    assert (other.log_probs - expected.log_probs).abs().max() > 1e-3


def test_a_student_that_would_lose_its_projection_is_not_doubled() -> None:
    last = replace(CONFIG.convs[-1], channels=2 * CONFIG.width)
    config = replace(CONFIG, convs=(*CONFIG.convs[:-1], last))
    with pytest.raises(ConfigError, match="cannot be doubled"):
        doubled(Student(config))
