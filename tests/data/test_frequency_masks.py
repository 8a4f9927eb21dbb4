"""Bands are left out at random: how many, how wide, and nothing else."""

import numpy as np
import pytest

from rdsdk.data.augment import Augmentation, augment

RATE = 16_000


def augmented(waveform: np.ndarray, augmentation: Augmentation, rng: np.random.Generator):
    """The waveform alone."""
    return augment(waveform, augmentation, rng)[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_frequency_mask_leaves_out_bands_of_the_share_at_most(seed: int) -> None:
    masking = Augmentation(frequency_mask_probability=1.0, frequency_mask_share=0.3)
    white = np.random.default_rng(9).normal(0, 0.1, 4 * RATE).astype(np.float32)
    masked = augmented(white, masking, np.random.default_rng(seed))
    assert len(masked) == len(white)
    before, after = (np.abs(np.fft.rfft(samples)) for samples in (white, masked))
    mels = 2595 * np.log10(1 + np.fft.rfftfreq(len(white), 1 / RATE) / 700)
    missing = after < 0.05 * before
    bands = np.split(mels[missing], np.flatnonzero(np.diff(np.flatnonzero(missing)) > 50) + 1)
    wide = [band for band in bands if np.ptp(band) > 20]
    assert 1 <= len(wide) <= 2
    # What is left is as loud as before, and no band is wider than the share; two may touch.
    assert np.median((after / before)[~missing]) == pytest.approx(1, abs=0.01)
    assert max(np.ptp(band) for band in wide) < 0.6 * mels.max()


def test_a_frequency_mask_is_as_wide_as_the_share_allows() -> None:
    """Of 200 bands drawn, uniform in width up to the share and anywhere in the range."""
    masking = Augmentation(frequency_mask_probability=1.0, frequency_mask_share=0.1)
    white = np.random.default_rng(9).normal(0, 0.1, RATE).astype(np.float32)
    rng, before = np.random.default_rng(0), np.abs(np.fft.rfft(white))
    masked = [
        np.abs(np.fft.rfft(augmented(white, masking, rng))) < 0.1 * before for _ in range(400)
    ]
    mels = 2595 * np.log10(1 + np.fft.rfftfreq(RATE, 1 / RATE) / 700)
    weight = np.gradient(mels) / mels[-1]
    shares = np.array([(missing * weight).sum() for missing in masked])
    assert shares.max() < 0.21
    # Two of 0.05 on average, less where they overlap, and at their edges.
    assert 0.08 < shares.mean() < 0.1
    often = np.mean(masked, axis=0)
    assert 0.03 < often[(mels > 700) & (mels < 2000)].mean() < 0.2
