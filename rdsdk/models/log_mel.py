"""waveform (B, S) -> log-mel energies: the filter bank that a front end need not learn.

Shapes: B batch, S samples, F bins of the Fourier transform, M mel bands.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rdsdk.models.config import SAMPLE_RATE

FFT_SAMPLES = 512


def mel_of(hertz: Tensor) -> Tensor:
    """The mel scale of HTK: 2595 log10(1 + hertz / 700)."""
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


@lru_cache(maxsize=4)
def mel_filters(bands: int, lowest_hertz: float, highest_hertz: float) -> Tensor:
    """(F, M): triangles of height one, whose corners lie evenly on the mel scale."""
    ends = mel_of(torch.tensor([lowest_hertz, highest_hertz], dtype=torch.float64))
    mels = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    hertz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    left, centre, right = hertz[:-2], hertz[1:-1], hertz[2:]
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1, dtype=torch.float64)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0).float()


def mel_power(windows: Tensor, filters: Tensor) -> Tensor:
    """Windows of samples (..., W), W <= 512 -> power in each band of ``filters``, (..., M)."""
    spectrum = torch.fft.rfft(windows, FFT_SAMPLES)
    return (spectrum.real.square() + spectrum.imag.square()) @ filters.to(windows.device)
