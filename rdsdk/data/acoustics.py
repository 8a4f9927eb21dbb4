"""What rooms, microphones, telephones and other mouths do to a voice: pure functions of a waveform.

``treat`` is the one chain that every clip of a corpus goes through, whatever its class, so that
nothing about a recording's channel tells what was said in it.

All waveforms are float32, mono, 16 kHz, shape (S,). Randomness comes from the Generator given.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 160


@dataclass(frozen=True)
class Treatment:
    """What ``treat`` did to one clip; None where it did nothing."""

    coloured: bool
    reverb_seconds: float | None
    noise: str | None
    snr_db: float | None
    opus: bool
    band: str
    level_dbfs: float

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def frame_levels_db(waveform: np.ndarray) -> np.ndarray:
    """The level of each 10 ms, dB of full scale, (S // 160,); at least one value."""
    count = max(1, len(waveform) // FRAME_SAMPLES)
    padded = np.resize(waveform, count * FRAME_SAMPLES) if len(waveform) else np.zeros(160)
    power = (padded.reshape(count, FRAME_SAMPLES).astype(np.float64) ** 2).mean(axis=1)
    return np.asarray(10 * np.log10(power + 1e-12))


def active_level_db(waveform: np.ndarray) -> float:
    """The level of the loud part (frames within 25 dB of the loudest), so that pauses around a
    word do not make it quiet."""
    levels = frame_levels_db(waveform)
    loud = levels[levels > levels.max() - 25]
    return float(10 * np.log10((10 ** (loud / 10)).mean()))


def set_level(waveform: np.ndarray, dbfs: float) -> np.ndarray:
    """Scale so that the active level is ``dbfs``, or lower where a peak would clip."""
    gain = 10 ** ((dbfs - active_level_db(waveform)) / 20)
    peak = float(np.abs(waveform).max(initial=0.0))
    return (waveform * min(gain, 0.98 / max(peak, 1e-9))).astype(np.float32)


def trim(waveform: np.ndarray, below_loudest_db: float = 35.0) -> np.ndarray:
    """Cut away what lies before the first and after the last 10 ms near the loudest."""
    levels = frame_levels_db(waveform)
    loud = np.flatnonzero(levels > levels.max() - below_loudest_db)
    return waveform[loud[0] * FRAME_SAMPLES : (loud[-1] + 1) * FRAME_SAMPLES]


def fade(waveform: np.ndarray, seconds: float = 0.005) -> np.ndarray:
    """Fade both ends, so that a cut makes no click."""
    count = min(round(seconds * SAMPLE_RATE), len(waveform) // 2)
    if count == 0:
        return waveform
    ramp = np.linspace(0.0, 1.0, count, dtype=np.float32)
    faded = waveform.astype(np.float32, copy=True)
    faded[:count] *= ramp
    faded[-count:] *= ramp[::-1]
    return faded


def resample_voice(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play ``factor`` times as fast: pitch and formants rise by it, the length falls by it."""
    return np.asarray(soxr.resample(waveform, factor * SAMPLE_RATE, SAMPLE_RATE), np.float32)


def change_tempo(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Speak ``factor`` times as fast at the same pitch (WSOLA: overlapping windows, each laid where
    it continues the last one best)."""
    window, hop, reach = 480, 240, 120
    if abs(factor - 1) < 0.02 or len(waveform) < 2 * window:
        return waveform.astype(np.float32)
    padded = np.concatenate([waveform, np.zeros(window + hop + 2 * reach, np.float32)])
    shape = np.hanning(window + 1)[:-1].astype(np.float32)
    count = int((len(waveform) / factor - window) / hop) + 1
    out = np.zeros(hop * count + window, np.float32)
    position = 0
    for index in range(count):
        if index:
            wished = round(index * hop * factor)
            first = max(0, wished - reach)
            region = padded[first : wished + reach + hop]
            follow = padded[position + hop : position + 2 * hop]
            position = first + int(np.argmax(np.correlate(region, follow, mode="valid")))
        out[index * hop : index * hop + window] += padded[position : position + window] * shape
    return out[: max(1, round(len(waveform) / factor))]


def band_limit(waveform: np.ndarray, rate: float = SAMPLE_RATE / 2) -> np.ndarray:
    """To a lower rate and back: nothing is left above half of that rate; the same length."""
    if not len(waveform):
        return waveform
    narrow = soxr.resample(waveform, SAMPLE_RATE, rate)
    wide = np.asarray(soxr.resample(narrow, rate, SAMPLE_RATE), np.float32)[: len(waveform)]
    return np.pad(wide, (0, len(waveform) - len(wide)))


def _fast_size(samples: int) -> int:
    """A length not below ``samples`` that is quick to transform: 2^k or 3 * 2^k, at least 16."""
    power = 1 << max(4, (samples - 1).bit_length())
    return power * 3 // 4 if power * 3 // 4 >= samples else power


def colour(waveform: np.ndarray, curve_db: Sequence[float], lowest_hz: float) -> np.ndarray:
    """A microphone's response: gains at points evenly spaced in log frequency from 80 Hz to 8 kHz,
    and nothing below ``lowest_hz`` (gentle slope)."""
    size = _fast_size(len(waveform) + 512)
    spectrum = np.fft.rfft(waveform, n=size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    points = np.geomspace(80, 8000, len(curve_db))
    gain = 10 ** (np.interp(np.log(hertz + 1), np.log(points), curve_db) / 20)
    gain = gain / (1 + (lowest_hz / (hertz + 1)) ** 4)
    return np.asarray(np.fft.irfft(spectrum * gain)[: len(waveform)], np.float32)


def mel(hertz: float) -> float:
    """How high a tone sounds (D. O'Shaughnessy 1987)."""
    return 2595 * math.log10(1 + hertz / 700)


def hertz_of_mel(height: float) -> float:
    """The tone that sounds so high."""
    return 700 * (10 ** (height / 2595) - 1)


def without_bands(waveform: np.ndarray, bands: Sequence[tuple[float, float]]) -> np.ndarray:
    """Nothing between the lowest and the highest hertz of each band, the same length."""
    size = _fast_size(len(waveform) + 512)
    spectrum = np.fft.rfft(waveform, n=size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    for lowest, highest in bands:
        spectrum[(hertz >= lowest) & (hertz < highest)] = 0
    return np.asarray(np.fft.irfft(spectrum, n=size)[: len(waveform)], np.float32)


def telephone(waveform: np.ndarray) -> np.ndarray:
    """300 to 3400 Hz and 8-bit mu-law, as a telephone line has it."""
    size = _fast_size(len(waveform))
    spectrum = np.fft.rfft(waveform, size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    edge = 1 / (1 + (270 / (hertz + 1)) ** 8) / (1 + (hertz / 3500) ** 16)
    line = np.fft.irfft(spectrum * edge, n=size)[: len(waveform)]
    scale = max(float(np.abs(line).max(initial=0.0)), 1e-9) * 2
    coded = np.sign(line) * np.log1p(255 * np.abs(line) / scale) / np.log(256)
    coded = np.round(coded * 127) / 127
    return np.asarray(np.sign(coded) * (256 ** np.abs(coded) - 1) / 255 * scale, np.float32)


def opus(waveform: np.ndarray) -> np.ndarray:
    """Through the Opus codec at a low rate and back, the same length."""
    buffer = io.BytesIO()
    scale = max(float(np.abs(waveform).max(initial=0.0)), 1e-6) * 1.2
    soundfile.write(
        buffer, waveform / scale, SAMPLE_RATE, "OPUS", format="OGG", compression_level=0.9
    )
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    out = np.zeros(len(waveform), np.float32)
    count = min(len(out), len(decoded))
    out[:count] = decoded[:count] * scale
    return out


def reverberate(waveform: np.ndarray, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A small room: decaying noise after the direct sound, 8 to 22 dB below it in all."""
    tail = rng.normal(size=round(seconds * SAMPLE_RATE)).astype(np.float32)
    tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail)).astype(np.float32)
    tail[: round(rng.uniform(0.001, 0.01) * SAMPLE_RATE)] = 0
    tail *= 10 ** (-rng.uniform(8, 22) / 20) / np.sqrt((tail**2).sum() + 1e-9)
    tail[0] = 1
    length = _fast_size(len(waveform) + len(tail))
    wet = np.fft.irfft(np.fft.rfft(waveform, length) * np.fft.rfft(tail, length), length)
    return np.asarray(wet[: len(waveform)], np.float32)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add ``noise``, repeated to the length, ``snr_db`` below the active level of the speech."""
    laid = np.resize(noise, len(waveform))
    level = 10 * np.log10(float((laid.astype(np.float64) ** 2).mean()) + 1e-12)
    gain = 10 ** ((active_level_db(waveform) - snr_db - level) / 20)
    return (waveform + laid * gain).astype(np.float32)


def hiss(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Stationary noise with a random slope between white and brown, (samples,), RMS about 1."""
    spectrum = np.fft.rfft(rng.normal(size=_fast_size(samples)))
    slope = rng.uniform(0, 1.0)
    spectrum[1:] *= np.arange(1, len(spectrum)) ** -slope
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum)[:samples]
    return np.asarray(noise / (np.sqrt((noise**2).mean()) + 1e-12), np.float32)


def treat(
    waveform: np.ndarray,
    rng: np.random.Generator,
    noises: Sequence[tuple[str, np.ndarray]],
    band_share: float,
    opus_share: float,
) -> tuple[np.ndarray, Treatment]:
    """One clip as one of many rooms, devices and lines would have given it.

    ``noises`` are (name, waveform) recordings; ``band_share`` is the share of clips limited to
    about 4 kHz, ``opus_share`` of those that go through the codec. The length does not change.
    """
    coloured = bool(rng.random() < 0.5)
    if coloured:
        waveform = colour(waveform, rng.normal(0, 4, size=7).tolist(), float(rng.uniform(20, 150)))
    room = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.3 else None
    if room is not None:
        waveform = reverberate(waveform, rng, room)
    chance, noise, snr = rng.random(), None, None
    if chance < 0.35 and noises:
        noise, recording = noises[int(rng.integers(len(noises)))]
        snr = float(rng.uniform(5, 30))
        start = int(rng.integers(len(recording)))
        waveform = add_noise(waveform, np.roll(recording, -start), snr)
    elif chance < 0.7:
        noise, snr = "hiss", float(rng.uniform(12, 45))
        waveform = add_noise(waveform, hiss(rng, len(waveform)), snr)
    band = "wide"
    if rng.random() < band_share:
        band = "telephone" if rng.random() < 0.2 else "narrow"
        # An 8 kHz recording played faster or slower has its edge elsewhere; so must the others.
        rate = 8000.0 if rng.random() < 0.45 else float(rng.uniform(6400, 10_000))
        waveform = telephone(waveform) if band == "telephone" else band_limit(waveform, rate)
    coded = bool(rng.random() < opus_share)
    if coded:
        waveform = opus(waveform)
    level = float(rng.uniform(-48, -14))
    treated = set_level(waveform, level)
    return treated, Treatment(coloured, room, noise, snr, coded, band, round(level, 1))
