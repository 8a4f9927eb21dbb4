"""A filter bank as the extractor's first teacher.

From random weights a stack of nine short convolutions learns what a spectrum is only slowly, and an
encoder above it learns nothing meanwhile. Regressing each frame's log-mel energies, which need no
labels, gives the extractor that in a few hundred cheap steps; the head is thrown away.

Shapes: B batch, S samples, T frames, M mel bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rdsdk.models.config import HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.log_mel import mel_filters, mel_power

MEL_BANDS = 64
_HERTZ = (60.0, 7600.0)
_FLOOR = 1e-8
"""Added to each band's power: about the noise of a quiet 16-bit recording."""


def log_mel(waveforms: Tensor) -> Tensor:
    """(B, S) -> (B, T, M): natural log of mel power in each frame's 400 samples, about -18 to 8."""
    window = torch.hann_window(RECEPTIVE_FIELD_SAMPLES, device=waveforms.device)
    frames = waveforms.float().unfold(1, RECEPTIVE_FIELD_SAMPLES, HOP_SAMPLES) * window
    # Float16 has no number as small as the floor.
    with torch.autocast(waveforms.device.type, enabled=False):
        return torch.log(mel_power(frames, mel_filters(MEL_BANDS, *_HERTZ)) + _FLOOR)


def mel_loss(predicted: Tensor, waveforms: Tensor, frame_counts: Tensor) -> Tensor:
    """Mean squared error over real frames and bands, as a share of the target's variance.

    The target is the log-mel energy less its mean over the utterance: an extractor with channel
    norms hears how loud a moment is among others, not how loud the recording is.
    """
    energies = log_mel(waveforms)
    index = torch.arange(energies.shape[1], device=energies.device)
    real = index < frame_counts.to(energies.device)[:, None]
    weights = real[..., None] / (real.sum(dim=1) * MEL_BANDS).clamp(min=1)[:, None, None]
    target = (energies - (energies * weights).sum(dim=(1, 2), keepdim=True)) / 4.0
    return (predicted.float() - target)[real].square().mean() / target[real].var()
