from __future__ import annotations

import numpy as np
import torch

from rdsdk.training.mel_start import MEL_BANDS, log_mel, mel_loss


def tone(frequency: float, samples: int = 16_000) -> torch.Tensor:
    time = torch.arange(samples) / 16_000
    return 0.1 * torch.sin(2 * np.pi * frequency * time)[None]


def test_there_is_one_row_for_each_frame_of_the_extractor() -> None:
    for samples in (400, 719, 720, 16_000):
        assert log_mel(torch.zeros(2, samples)).shape == (2, (samples - 80) // 320, MEL_BANDS)


def test_a_higher_tone_lies_in_a_higher_band() -> None:
    peaks = [int(log_mel(tone(f)).mean(1).argmax()) for f in (200.0, 800.0, 3000.0, 7000.0)]
    assert peaks == sorted(set(peaks))


def test_the_target_does_not_depend_on_how_loud_the_recording_is() -> None:
    rng = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(1, 8000, generator=rng) * torch.linspace(0.1, 1, 8000)
    counts = torch.tensor([24])
    energies = log_mel(waveforms)
    right = (energies - energies.mean()) / 4
    assert mel_loss(right, waveforms, counts) < 1e-6
    assert mel_loss(right, 0.25 * waveforms, counts) < 1e-3
    assert mel_loss(torch.zeros_like(right), waveforms, counts) > 0.9


def test_padding_counts_for_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    short = 0.1 * torch.randn(1, 320 * 10 + 80, generator=rng)
    padded = torch.nn.functional.pad(short, (0, 320 * 7))
    predicted = torch.randn(1, 17, MEL_BANDS, generator=rng)
    counts = torch.tensor([10])
    alone = mel_loss(predicted[:, :10], short, counts)
    torch.testing.assert_close(mel_loss(predicted, padded, counts), alone)
