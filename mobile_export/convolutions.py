"""A student's extractor as plain image convolutions, as Core ML's compiler wants to see them.

The same function as ``rdsdk.models.extractor``, which spells convolutions as products over windows
of frames for XNNPACK and training; weights keep their names and shapes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.extractor import Extractor, TimeNorm
from rdsdk.models.frame_conv import FrameConv
from rdsdk.models.student import Student


class _Recording(nn.Module):
    """``TimeNorm`` on what a convolution gave: (B, O, 1, L) over L."""

    def __init__(self, source: TimeNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = source.weight, source.bias, source.epsilon

    def forward(self, x_bo1l: Tensor) -> Tensor:
        centred = x_bo1l - x_bo1l.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        normalised = centred * (variance + self.epsilon).rsqrt()
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


class _Channels(nn.Module):
    """A layer norm over the channels of (B, O, 1, L)."""

    def __init__(self, source: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = source.weight, source.bias, source.eps

    def forward(self, x_bo1l: Tensor) -> Tensor:
        x_bl1o = x_bo1l.permute(0, 3, 2, 1)
        normalised = F.layer_norm(x_bl1o, self.weight.shape, self.weight, self.bias, self.epsilon)
        return normalised.permute(0, 3, 2, 1)


def _convolution(source: FrameConv) -> nn.Conv2d:
    conv = source.conv
    made = nn.Conv2d(
        source.inputs,
        conv.channels,
        (1, conv.kernel),
        stride=(1, conv.stride),
        bias=source.bias is not None,
    )
    made.weight, made.bias = source.weight, source.bias
    return made


def _norm(source: nn.Module) -> nn.Module:
    if isinstance(source, TimeNorm):
        return _Recording(source)
    return _Channels(source) if isinstance(source, nn.LayerNorm) else source


class ConvolvedExtractor(nn.Module):
    """waveform (B, S) -> frames (B, T, C), by valid convolutions."""

    def __init__(self, source: Extractor) -> None:
        super().__init__()
        convs = [conv for conv in source.convs if isinstance(conv, FrameConv)]
        self.convs = nn.ModuleList(_convolution(conv) for conv in convs)
        self.norms = nn.ModuleList(_norm(norm) for norm in source.norms)

    def forward(self, waveform: Tensor) -> Tensor:
        x_bc1l = waveform[:, None, None, :]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_bc1l = F.gelu(norm(conv(x_bc1l)))
        return x_bc1l.squeeze(2).transpose(1, 2)


def with_convolutions(student: Student) -> Student:
    """Replace a student's extractor, in place, by the same one of image convolutions."""
    student.extractor = ConvolvedExtractor(student.extractor)  # type: ignore[assignment]
    return student.eval()
