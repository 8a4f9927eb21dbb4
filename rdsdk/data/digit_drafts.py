"""What every clip of a digit corpus begins as: words of one voice with some quiet around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdsdk.data.acoustics import (
    SAMPLE_RATE,
    active_level_db,
    change_tempo,
    fade,
    frame_levels_db,
    hiss,
    resample_voice,
    trim,
)
from rdsdk.data.digit_sources import Token


@dataclass(frozen=True)
class Draft:
    """A clip before its channel: (S,) speech, and whose it is."""

    waveform: np.ndarray
    text: str
    speaker: str
    source: str
    licence: str
    made_of: str


def other_mouth(
    waveform: np.ndarray, rng: np.random.Generator, longest_seconds: float | None = None
) -> np.ndarray:
    """Another voice saying the same: pitch and formants by 0.8 to 1.25, tempo by 0.75 to 1.35."""
    if rng.random() < 0.75:
        waveform = resample_voice(waveform, float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))))
    if rng.random() < 0.6:
        tempo = float(np.exp(rng.uniform(np.log(0.75), np.log(1.35))))
        seconds = len(waveform) / SAMPLE_RATE
        if seconds / tempo < 0.16 or (longest_seconds and seconds / tempo > longest_seconds):
            tempo = 1.0
        waveform = change_tempo(waveform, tempo)
    return waveform


def quiet(like: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A pause to go with a recording: nothing at all, or hiss no louder than its own floor."""
    samples = round(seconds * SAMPLE_RATE)
    if rng.random() < 0.5 or not samples:
        return np.zeros(samples, np.float32)
    floor = min(np.percentile(frame_levels_db(like), 3), active_level_db(like) - 25)
    return hiss(rng, samples) * np.float32(10 ** (floor / 20))


def surround(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the time tight, as a trimmed recording is; otherwise with quiet around it."""
    longest = 0.04 if rng.random() < 0.5 else 1.0
    shortest = 0.0 if longest < 0.1 else 0.1
    before, after = rng.uniform(shortest, longest, size=2)
    return np.concatenate(
        [quiet(waveform, before, rng), fade(waveform), quiet(waveform, after, rng)]
    )


def token_draft(tokens: Sequence[Token], rng: np.random.Generator, keep_text: bool) -> Draft:
    token = tokens[int(rng.integers(len(tokens)))]
    waveform = surround(other_mouth(trim(token.waveform), rng), rng)
    text = token.text if keep_text else ""
    return Draft(waveform, text, token.speaker, token.source, token.licence, token.kind)
