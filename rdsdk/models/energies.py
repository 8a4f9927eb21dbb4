"""waveform (B, S) -> (B, T, C): log-mel energies beside what the extractor's convolutions hear.

With hours of speech and not with thousands of them, convolutions of samples learn a poorer front
end than the filter bank that needs no learning. A frame's energies are of its own 400 samples, so
that they stream as the convolutions do, with nothing to remember: one spectrum of all of them, for
pitch, and one of the 240 samples at either end, for what changes within a frame.

Transform and filter bank are spelled as two matrix products, which every exporter knows.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, M mel bands, C channels of the extractor.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.frame_conv import windows
from rdsdk.models.log_mel import FFT_SAMPLES, mel_filters

SHORT_SAMPLES = 240
LOWEST_HERTZ, HIGHEST_HERTZ = 40.0, 7600.0
WIDTH = 256
_FLOOR = 1e-6  # about 100 dB below a sine of full scale; digital silence is a constant
_MEAN, _DEVIATION = -4.0, 4.0  # of the logarithms of speech, about


class Energies(nn.Module):
    """Log-mel energies through two linear layers; a new one gives zeros."""

    bank: Tensor
    long: Tensor
    short: Tensor

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        filters = mel_filters(bands, LOWEST_HERTZ, HIGHEST_HERTZ)
        heard = filters.any(dim=1)
        # Once for the cosines and once for the sines.
        self.register_buffer("bank", filters[heard].repeat(2, 1).T.contiguous(), persistent=False)
        for name, samples in (("long", RECEPTIVE_FIELD_SAMPLES), ("short", SHORT_SAMPLES)):
            spectrum = fourier_matrix(samples)[heard.repeat(2)]
            self.register_buffer(name, spectrum, persistent=False)
        self.widen = nn.Linear(3 * bands, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.join = nn.Linear(WIDTH, channels)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def energies(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) -> (B, T, 3 M): logarithms, about 0 in the mean and 1 apart."""
        frames = (waveform.shape[1] - OVERLAP_SAMPLES) // HOP_SAMPLES
        used = waveform[:, : HOP_SAMPLES * frames + OVERLAP_SAMPLES, None]
        rows = windows(used, 0, RECEPTIVE_FIELD_SAMPLES, HOP_SAMPLES)
        parts = (
            (rows, self.long),
            (rows[..., :SHORT_SAMPLES], self.short),
            (rows[..., -SHORT_SAMPLES:], self.short),
        )
        powers = [F.linear(F.linear(part, matrix).square(), self.bank) for part, matrix in parts]
        return self.scaled(torch.cat(powers, dim=-1))

    @staticmethod
    def scaled(powers: Tensor) -> Tensor:
        """Powers in bands, of any shape -> their logarithms, about 0 in the mean and 1 apart."""
        return ((powers + _FLOOR).log() - _MEAN) / _DEVIATION

    def exact(self, waveform: Tensor) -> Tensor:
        """``energies`` in float32 where the rest is not: soft bands beside loud ones are lost in
        bfloat16, which is for what is learnt."""
        device = waveform.device.type
        mixed = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            return self.energies(waveform.float() if mixed else waveform)

    def joined(self, energies: Tensor) -> Tensor:
        """Energies (B, T, 3 M) -> (B, T, C), what is added to the extractor's frames."""
        heard: Tensor = self.join(self.norm(F.gelu(self.widen(energies))))
        return heard

    def forward(self, waveform: Tensor) -> Tensor:
        return self.joined(self.exact(waveform))


def constant_values(bands: int) -> int:
    """How many numbers the spectra and the filter bank are, which are no parameters: 0 for 0."""
    return 2 * _heard_bins(bands) * (RECEPTIVE_FIELD_SAMPLES + SHORT_SAMPLES + bands)


def _heard_bins(bands: int) -> int:
    return int(mel_filters(bands, LOWEST_HERTZ, HIGHEST_HERTZ).any(dim=1).sum())


def macs_per_frame(bands: int, channels: int) -> int:
    """MACs of ``Energies`` a frame, counted as in ``rdsdk.models.cost``."""
    bins = _heard_bins(bands)
    spectra = 2 * bins * (RECEPTIVE_FIELD_SAMPLES + 2 * SHORT_SAMPLES)
    return spectra + 3 * 2 * bins * bands + WIDTH * (3 * bands + channels)


def fourier_matrix(samples: int) -> Tensor:
    """(2 F, samples): what gives the real and then the imaginary parts of the spectrum of so many
    samples under a Hann window, padded to ``FFT_SAMPLES``, F = FFT_SAMPLES // 2 + 1."""
    tones = torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64)[:, None]
    angles = 2 * math.pi / FFT_SAMPLES * tones * torch.arange(samples, dtype=torch.float64)
    window = torch.hann_window(samples, dtype=torch.float64)
    return (torch.cat([angles.cos(), -angles.sin()]) * window).float()
