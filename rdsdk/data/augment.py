"""Waveform augmentation: small pure functions of samples and an explicit generator.

All of it together takes about a thousandth of the recording's duration on one core (with codecs a
few), so that the decoding of the file stays the larger part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soxr

from rdsdk.data import acoustics
from rdsdk.data.acoustics import SAMPLE_RATE
from rdsdk.data.noise import Waveform, load_noises, noise_stretch
from rdsdk.errors import ConfigError

PROBABLE = (
    "speed",
    "silence",
    "microphone",
    "room",
    "noise",
    "narrow_band",
    "codec",
    "frequency_mask",
    "gain",
)
"""What may happen to an utterance, in this order."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training waveform, and how often. The defaults change nothing.

    Each probability is for one utterance; ranges are uniform. Silence is put before and after
    (each up to ``silence_seconds``) ahead of the noise, so that noise is heard without speech too.
    A microphone favours some tones; a room falls silent (by 60 dB) after ``room_seconds``; a codec
    is Opus at a low rate or, one time in four, a telephone line's. A frequency mask leaves two
    bands out (SpecAugment's, D. S. Park et al. 2019, arXiv 1904.08779, on samples), each up to
    ``frequency_mask_share`` of the range in mel.

    Raises:
        ConfigError: a probability is outside [0, 1] or a range is empty or impossible.
    """

    speed: tuple[float, float] = (0.9, 1.1)
    speed_probability: float = 0.0
    silence_seconds: float = 0.5
    silence_probability: float = 0.0
    microphone_probability: float = 0.0
    room_seconds: tuple[float, float] = (0.1, 0.6)
    room_probability: float = 0.0
    noise: str | None = None
    noise_pattern: str = "**/*"
    noise_probability: float = 0.0
    snr_db: tuple[float, float] = (5.0, 30.0)
    narrow_band_probability: float = 0.0
    codec_probability: float = 0.0
    frequency_mask_share: float = 0.2
    frequency_mask_probability: float = 0.0
    gain_db: tuple[float, float] = (-15.0, 5.0)
    gain_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in PROBABLE:
            probability = getattr(self, f"{name}_probability")
            if not 0 <= probability <= 1:
                raise ConfigError(f"{name}_probability must be in [0, 1], got {probability}")
        for name in ("speed", "room_seconds", "snr_db", "gain_db"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ConfigError(f"{name} must be a range (low, high), got {(low, high)}")
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ConfigError(f"speed must lie in [0.5, 2], got {self.speed}")
        if not 0.05 <= self.room_seconds[0] <= self.room_seconds[1] <= 5:
            raise ConfigError(f"room_seconds must lie in [0.05, 5], got {self.room_seconds}")
        if self.silence_seconds < 0:
            raise ConfigError(f"silence_seconds cannot be negative, got {self.silence_seconds}")
        if not 0 < self.frequency_mask_share < 1:
            raise ConfigError(
                f"frequency_mask_share must lie in (0, 1), got {self.frequency_mask_share}"
            )
        if self.noise_probability and self.noise is None:
            raise ConfigError(
                "noise_probability is set but noise names no folder; give one, or leave it at 0"
            )


class Timing(NamedTuple):
    """Where augmentation moved things: second s is heard at s / ``speed`` + ``start`` seconds."""

    speed: float = 1.0
    start: float = 0.0


def augment(
    waveform: Waveform,
    augmentation: Augmentation,
    generator: np.random.Generator,
    minimum_samples: int = 400,
) -> tuple[Waveform, Timing]:
    """Apply ``augmentation`` to (S,) float32 samples; gives (S',), still in [-1, 1], and its times.

    ``minimum_samples`` bounds the speed-up, so that a transcript still fits into the frames.

    Raises:
        DataError: the noise folder holds no readable noise.
    """

    def chosen(probability: float) -> bool:
        # Drawn whether or not it is used, so that one setting does not shift the others' draws.
        return bool(generator.random() < probability)

    speed_up, factor = (
        chosen(augmentation.speed_probability),
        _uniform(generator, augmentation.speed),
    )
    timing = Timing()
    if speed_up and len(waveform):
        factor = min(factor, len(waveform) / max(1, minimum_samples))
        waveform, timing = change_speed(waveform, factor), Timing(speed=factor)
    pad, ends = chosen(augmentation.silence_probability), generator.random(2)
    if pad:
        before, after = (ends * augmentation.silence_seconds * SAMPLE_RATE).astype(int)
        waveform = np.pad(waveform, (int(before), int(after)))
        timing = timing._replace(start=int(before) / SAMPLE_RATE)
    # Microphones and rooms leave a little of something in what was silence.
    spoken = int(np.count_nonzero(waveform))
    response, lowest_hz = generator.normal(0, 4, size=7), float(generator.uniform(20, 150))
    if chosen(augmentation.microphone_probability) and len(waveform):
        waveform = acoustics.colour(waveform, response.tolist(), lowest_hz)
    in_room, decay = (
        chosen(augmentation.room_probability),
        _uniform(generator, augmentation.room_seconds),
    )
    walls = int(generator.integers(2**32))
    if in_room and len(waveform):
        waveform = acoustics.reverberate(waveform, np.random.default_rng(walls), decay)
    mix, snr_db = chosen(augmentation.noise_probability), _uniform(generator, augmentation.snr_db)
    place = generator.random(2)
    if mix and augmentation.noise is not None:
        noises = load_noises(augmentation.noise, augmentation.noise_pattern)
        noise = noises[int(place[0] * len(noises))]
        stretch = noise_stretch(noise, len(waveform), float(place[1]))
        waveform = mix_noise(waveform, stretch, snr_db, spoken)
    if chosen(augmentation.narrow_band_probability):
        waveform = acoustics.band_limit(waveform)
    coded, line = chosen(augmentation.codec_probability), generator.random() < 0.25
    if coded and len(waveform):
        waveform = acoustics.telephone(waveform) if line else acoustics.opus(waveform)
    louder, gain_db = (
        chosen(augmentation.gain_probability),
        _uniform(generator, augmentation.gain_db),
    )
    # Drawn last: with none of it, a seed gives what it gave before there was any.
    masked, places = chosen(augmentation.frequency_mask_probability), generator.random((2, 2))
    if masked and len(waveform):
        widest = augmentation.frequency_mask_share
        bands = [_band(width * widest, place) for width, place in places.tolist()]
        waveform = acoustics.without_bands(waveform, bands)
    if louder:
        waveform = change_gain(waveform, gain_db)
    return np.clip(waveform, -1.0, 1.0), timing


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play ``factor`` times as fast, pitch included: (S,) -> about (S / factor,)."""
    if factor == 1:
        return waveform
    return soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE)


def mix_noise(
    waveform: Waveform, noise: Waveform, snr_db: float, spoken: int | None = None
) -> Waveform:
    """Add ``noise`` (S,) so that speech over noise is ``snr_db`` in mean power.

    ``spoken`` of the samples are speech, the others padding; None counts those that are not exactly
    zero. If either is silent, the waveform stays as it is: no ratio is defined.
    """
    spoken = int(np.count_nonzero(waveform)) if spoken is None else spoken
    speech_power = float(np.sum(np.square(waveform), dtype=np.float64)) / max(1, spoken)
    noise_power = float(np.mean(np.square(noise), dtype=np.float64))
    if speech_power <= 0 or noise_power <= 0:
        return waveform
    scale = (speech_power / noise_power / 10 ** (snr_db / 10)) ** 0.5
    return waveform + np.float32(scale) * noise


def change_gain(waveform: Waveform, gain_db: float) -> Waveform:
    """Louder or quieter by ``gain_db``; clipped at full scale, as a microphone would."""
    return np.clip(waveform * np.float32(10 ** (gain_db / 20)), -1.0, 1.0)


def _band(width: float, place: float) -> tuple[float, float]:
    """The lowest and the highest hertz of a band: its share of the range in mel, and how far up it
    lies, from 0 to 1."""
    low = place * (1 - width)
    highest = acoustics.mel(SAMPLE_RATE / 2)
    return acoustics.hertz_of_mel(low * highest), acoustics.hertz_of_mel((low + width) * highest)


def _uniform(generator: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(generator.uniform(*bounds))
