"""A student's front end as plain image convolutions, as Core ML's compiler wants to see them.

The same functions as ``rdsdk.models.extractor`` and ``energies``, which spell convolutions as
products over windows of frames for XNNPACK and training; weights keep their names, and those that
are learnt their shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.energies import SHORT_SAMPLES, Energies
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


class ConvolvedEnergies(Energies):
    """``Energies`` by convolutions whose filters are the waves of its spectra."""

    def __init__(self, source: Energies) -> None:
        nn.Module.__init__(self)
        for name in ("long", "short"):
            waves = getattr(source, name)[:, None, None, :]
            self.register_buffer(name, waves.contiguous(), persistent=False)
        self.register_buffer("bank", source.bank[:, :, None, None].contiguous(), persistent=False)
        self.widen, self.norm, self.join = source.widen, source.norm, source.join

    def energies(self, waveform: Tensor) -> Tensor:
        line_b11s = waveform[:, None, None, :]
        either_end = RECEPTIVE_FIELD_SAMPLES - SHORT_SAMPLES
        ends_b12s = torch.cat([line_b11s[..., :-either_end], line_b11s[..., either_end:]], dim=2)
        spectra = [
            F.conv2d(line_b11s, self.long, stride=(1, HOP_SAMPLES)),
            F.conv2d(ends_b12s, self.short, stride=(1, HOP_SAMPLES)),
        ]
        powers_bm3t = F.conv2d(torch.cat(spectra, dim=2).square(), self.bank)
        powers = powers_bm3t.permute(0, 3, 2, 1).flatten(2)
        return self.scaled(powers)


def with_convolutions(student: Student) -> Student:
    """Replace a student's front end, in place, by the same one of image convolutions."""
    student.extractor = ConvolvedExtractor(student.extractor)  # type: ignore[assignment]
    if student.energies is not None:
        student.energies = ConvolvedEnergies(student.energies)
    return student.eval()
