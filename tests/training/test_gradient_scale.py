"""Scaled gradients equal their closed form; the forward pass does not change by a bit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rdsdk.models.config import preset, reuse_pattern
from rdsdk.models.student import Student
from rdsdk.training.gradient_scale import LayerGradientScale, scale_gradient, shares

WAVEFORM = 0.1 * torch.randn(2, 6480, generator=torch.Generator().manual_seed(0))
# Without reuse a layer hears of what lies above it only through its output, so a form is closed.
CONFIG = replace(preset("tiny"), map_owner=reuse_pattern("none", 4), dropout=0.0)


def gradients(student: Student, how: str, losses: range) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Of the sum of squares after the given layers (from 1), for each parameter."""
    student = copy.deepcopy(student)
    scale = LayerGradientScale(student.encoder, how)  # type: ignore[arg-type]
    output, _ = student(WAVEFORM)
    weights = torch.linspace(0.5, 1.5, output.hidden[0].shape[-1])
    own = scale.own(output.hidden)
    sum((weights * own[number - 1] ** 3).sum() for number in losses).backward()  # type: ignore[union-attr]
    return {
        name: parameter.grad.clone()
        for name, parameter in student.named_parameters()
        if parameter.grad is not None
    }, output.hidden


def layer_weight(layer: int) -> str:
    return f"encoder.layers.{layer - 1}.ffn_in.weight"


@pytest.fixture
def student() -> Student:
    torch.manual_seed(1)
    return Student(CONFIG)


@pytest.mark.parametrize("how", ["shares", "released"])
def test_each_layers_gradient_is_its_closed_form(student: Student, how: str) -> None:
    depth = CONFIG.layers
    # What each single loss gives each layer, without scaling.
    alone = {n: gradients(student, "off", range(n, n + 1))[0] for n in range(1, depth + 1)}
    scaled, _ = gradients(student, how, range(1, depth + 1))
    for layer in range(1, depth + 1):
        expected = torch.zeros_like(scaled[layer_weight(layer)])
        for loss in range(layer, depth + 1):
            # Its own share at its layer, and the onward share of each layer it passes below.
            factor = shares(loss, depth, how)[0]  # type: ignore[arg-type]
            for passed in range(layer, loss):
                factor *= shares(passed, depth, how)[1]  # type: ignore[arg-type]
            expected += factor * alone[loss][layer_weight(layer)]
        got = scaled[layer_weight(layer)]
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6 * float(got.abs().max()))
    plain, _ = gradients(student, "off", range(1, depth + 1))
    assert not torch.allclose(plain[layer_weight(1)], scaled[layer_weight(1)], rtol=1e-2)


def test_shares_make_each_layer_hear_the_mean_of_all_losses_above(student: Student) -> None:
    depth = CONFIG.layers
    alone = [gradients(student, "off", range(n, n + 1))[0] for n in range(1, depth + 1)]
    scaled, _ = gradients(student, "shares", range(1, depth + 1))
    mean = torch.stack([one[layer_weight(1)] for one in alone]).mean(dim=0)
    assert torch.allclose(scaled[layer_weight(1)], mean, rtol=1e-4, atol=1e-6)
    assert torch.allclose(
        scaled[layer_weight(depth)], alone[-1][layer_weight(depth)], rtol=1e-5, atol=1e-7
    )


def test_the_shares_are_those_of_the_papers_code_and_of_its_intention() -> None:
    assert shares(12, 12, "shares") == (1.0, 0.0)
    assert shares(1, 12, "shares") == pytest.approx((1 / 12, 11 / 12))
    # The released code counts from 0: kept 12/13 below, 1/2 at the top, and the loss behind that.
    assert shares(1, 12, "released") == pytest.approx((12 / 13 / 13, 12 / 13))
    assert shares(12, 12, "released") == pytest.approx((0.25, 0.5))
    assert shares(3, 12, "off") == (1.0, 1.0)


def test_the_forward_pass_is_untouched_and_hooks_come_off(student: Student) -> None:
    expected, _ = student(WAVEFORM)
    scale = LayerGradientScale(student.encoder, "shares")
    output, _ = student(WAVEFORM)
    for ours, theirs in zip(scale.own(output.hidden), expected.hidden, strict=True):
        assert torch.equal(ours, theirs)
    assert not any(module._forward_pre_hooks for module in student.copy().modules())
    assert any(module._forward_pre_hooks for module in student.encoder.modules())
    scale.remove()
    assert not any(module._forward_pre_hooks for module in student.encoder.modules())


def test_reused_maps_do_not_escape_the_scaling() -> None:
    torch.manual_seed(1)
    student = Student(replace(preset("tiny"), dropout=0.0))
    query = "encoder.layers.2.attention_map.query.weight"
    below = "encoder.layers.1.ffn_in.weight"
    plain, _ = gradients(student, "off", range(4, 5))
    scaled, _ = gradients(student, "shares", range(4, 5))
    # The map of layer 3, used by layer 4 too, hears layer 4's loss directly and through layer 3.
    assert scaled[query].abs().sum() > 0
    # Everything that reaches layer 2 passes its onward share.
    own_of_layer_3 = {"off": plain, "shares": scaled}
    assert not torch.allclose(own_of_layer_3["off"][below], own_of_layer_3["shares"][below])


def test_a_scaled_tensor_is_the_tensor_itself() -> None:
    x = torch.randn(3, requires_grad=True)
    y = scale_gradient(x, 0.25)
    assert torch.equal(x, y)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 0.25))  # type: ignore[arg-type]
