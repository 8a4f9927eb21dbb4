"""The filter bank beside those of transformers and torchaudio."""

from __future__ import annotations

import pytest
import torch
import torchaudio.functional
from transformers.audio_utils import mel_filter_bank

from rdsdk.models.log_mel import FFT_SAMPLES, mel_filters, mel_power

SETTINGS = [(64, 60.0, 7600.0), (80, 40.0, 7600.0)]


@pytest.mark.parametrize(("bands", "lowest", "highest"), SETTINGS)
def test_the_filters_are_those_of_two_others(bands: int, lowest: float, highest: float) -> None:
    ours = mel_filters(bands, lowest, highest)
    theirs = mel_filter_bank(
        num_frequency_bins=FFT_SAMPLES // 2 + 1,
        num_mel_filters=bands,
        min_frequency=lowest,
        max_frequency=highest,
        sampling_rate=16_000,
        mel_scale="htk",
    )
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float(), atol=1e-6, rtol=0)
    bank = torchaudio.functional.melscale_fbanks(
        FFT_SAMPLES // 2 + 1, lowest, highest, bands, 16_000, mel_scale="htk"
    )
    torch.testing.assert_close(ours, bank, atol=1e-4, rtol=0)
    # Negative control: another lowest tone would be seen.
    assert (mel_filters(bands, lowest + 5, highest) - ours).abs().max() > 0.05


def test_the_power_is_that_of_a_spectrogram() -> None:
    waveform = torch.randn(2, 4_000, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(400)
    filters = mel_filters(*SETTINGS[1])
    ours = mel_power(waveform.unfold(1, 400, 160) * window, filters)
    # torch centres a short window in the transform, which moves no power.
    spectrum = torch.stft(
        torch.nn.functional.pad(waveform, (56, 56)),
        FFT_SAMPLES,
        160,
        400,
        window,
        center=False,
        return_complex=True,
    )
    theirs = spectrum.abs().square().transpose(1, 2) @ filters
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-4)
