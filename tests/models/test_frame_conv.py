"""Convolutions as products over windows equal torch's own, and so does the norm made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rdsdk.errors import ConfigError
from rdsdk.models.config import ConvLayer, extractor_convs, preset
from rdsdk.models.extractor import Extractor, TimeNorm, cosine_basis
from rdsdk.models.frame_conv import FrameConv, tap_groups

SHAPES = [(1, 10, 5), (1, 7, 5), (6, 3, 2), (6, 5, 2), (6, 2, 2), (6, 1, 1), (6, 4, 1), (40, 8, 3)]


def reference(conv: FrameConv, x_bli: Tensor) -> Tensor:
    """torch's convolution of the frames and enough zeros after them."""
    kernel, stride = conv.conv.kernel, conv.conv.stride
    padded = F.pad(x_bli.transpose(1, 2), (0, kernel))
    result = F.conv1d(padded, conv.weight[:, :, 0], conv.bias, stride).transpose(1, 2)
    return result[:, : x_bli.shape[1] // stride]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "kernel", "stride"), SHAPES)
def test_a_frame_conv_is_torchs_convolution(
    inputs: int, kernel: int, stride: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = FrameConv(inputs, ConvLayer(12, kernel, stride), bias)
    for length in (40, 41, 43):
        x_bli = torch.randn(2, length, inputs)
        torch.testing.assert_close(conv(x_bli), reference(conv, x_bli), atol=1e-5, rtol=1e-5)
    # Negative control: with its taps turned round it is another convolution.
    if kernel > 1:
        expected = reference(conv, x_bli)
        conv.weight.data = conv.weight.data.flip(-1)
        assert (conv(x_bli) - expected).abs().max() > 0.1


def test_narrow_windows_are_one_product_and_wide_ones_one_a_block() -> None:
    assert tap_groups(ConvLayer(128, 10, 5), 1) == [(0, 10)]
    assert tap_groups(ConvLayer(256, 3, 2), 256) == [(0, 2), (2, 3)]
    assert tap_groups(ConvLayer(432, 2, 2), 432) == [(0, 2)]


def test_a_convolution_that_skips_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel is below its stride"):
        replace(preset("tiny"), convs=(ConvLayer(8, 1, 2), *preset("tiny").convs[1:]))


def rumble(samples: int) -> Tensor:
    """A loud low tone on an offset, with a hundred thousandth of its power in hiss."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / 16_000
    tone = 0.1 + 0.5 * torch.sin(2 * torch.pi * 80 * time)
    return (tone + 1e-3 * torch.randn(samples, generator=generator))[None]


def test_the_time_norm_of_a_convolution_is_torchs_group_norm() -> None:
    torch.manual_seed(0)
    conv, norm = FrameConv(1, ConvLayer(12, 10, 5), bias=True), TimeNorm(12, 10)
    # Filters of the lowest and the highest tones, beside random ones.
    conv.weight.data[:10, 0, 0] = cosine_basis(10)
    norm.weight.data.uniform_(0.5, 2.0)
    norm.bias.data.uniform_(-1.0, 1.0)
    for samples in (400, 8_003, 160_319):
        waveform = rumble(samples)
        frames = (samples - 10) // 5 + 1
        wide = F.conv1d(waveform[None].double(), conv.weight[:, :, 0].double(), stride=5)
        expected = F.group_norm(wide, 12, norm.weight.double(), norm.bias.double(), 1e-5)
        got = norm(conv, waveform, frames)
        torch.testing.assert_close(got, expected.mT.float(), atol=2e-3, rtol=2e-4)
    # Negative control: statistics that leave the second half out.
    half = norm(conv, torch.cat([waveform[:, :80_000], 0.1 * waveform[:, 80_000:]], 1), frames)
    assert (half - expected.mT.float()).abs().max() > 0.1


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_no_frame_of_the_extractor_reads_past_the_sound(norm: str) -> None:
    torch.manual_seed(0)
    config = replace(
        preset("tiny"),
        convs=extractor_convs(8, 16, 24),
        context=None,
        extractor_norm=norm,  # type: ignore[arg-type]
    )
    extractor = Extractor(config).eval()
    waveform = torch.randn(1, 320 * 6 + 80)
    with torch.no_grad():
        frames = extractor(waveform)
        assert frames.shape == (1, 6, 24)
        if norm == "layer":
            longer = extractor(torch.cat([waveform, torch.ones(1, 640)], dim=1))
            torch.testing.assert_close(longer[:, :6], frames)
            # Negative control: the frames after these do read it.
            silent = extractor(torch.cat([waveform, torch.zeros(1, 640)], dim=1))
            assert (longer[:, 6:] - silent[:, 6:]).abs().max() > 0.1
        else:
            # Samples after the last hop change the statistics, as published, but make no frame.
            assert extractor(torch.cat([waveform, torch.ones(1, 319)], dim=1)).shape[1] == 6
