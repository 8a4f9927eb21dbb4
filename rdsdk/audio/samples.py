"""Arrays of samples to the one waveform everything else takes: float32, mono, [-1, 1], 16 kHz."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr

from rdsdk.errors import AudioError

SAMPLE_RATE = 16_000
# Below the first, speech is gone; nothing records above the second: such a header is damaged.
MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 768_000
# Floats this far beyond 1 are integers that nobody scaled, not a loud recording.
_UNSCALED_PEAK = 100.0
_MOST_CHANNELS = 64


def check_sample_rate(sample_rate: float, source: str = "this audio") -> int:
    """The rate in Hz as an integer.

    Raises:
        AudioError: it is not a whole number between 4 000 and 768 000.
    """
    # A rate may come from anywhere: text, None or NaN is as wrong as a number out of range.
    is_number = isinstance(sample_rate, (int, float, np.integer, np.floating))
    if (
        not is_number
        or not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE
        or sample_rate != int(sample_rate)
    ):
        raise AudioError(
            f"{source} has a sample rate of {sample_rate!r} Hz, expected a whole number from "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    return int(sample_rate)


def mono(samples: Any, source: str = "this audio", start_seconds: float = 0.0) -> np.ndarray:
    """(S,) or (S, channels) of int16, int32, uint8 or float -> (S,) float32; channels are averaged.

    Integers are divided by their full scale; floats beyond [-1, 1] are clipped, as a player does.

    Raises:
        AudioError: another type or shape, NaN or infinity, or floats that were never scaled.
    """
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients
        raise AudioError(
            f"{source} is no array of samples ({error}), expected (S,) or (S, channels)"
        ) from None
    if array.ndim not in (1, 2):
        raise AudioError(f"{source} has the shape {array.shape}, expected (S,) or (S, channels)")
    if array.ndim == 2 and not 1 <= array.shape[1] <= _MOST_CHANNELS:
        hint = "; transpose it" if array.shape[0] <= _MOST_CHANNELS else ""
        raise AudioError(
            f"{source} has the shape {array.shape}, expected (S, channels) with 1 to "
            f"{_MOST_CHANNELS} channels{hint}"
        )
    if array.dtype == np.uint8:
        scaled = (array.astype(np.float32) - 128.0) / 128.0
    elif array.dtype in (np.int16, np.int32):
        scaled = array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    elif array.dtype.kind == "f":
        scaled = array.astype(np.float32)
        _check_floats(scaled, source, start_seconds)
    else:
        raise AudioError(
            f"{source} has samples of type {array.dtype}, expected float, int16, int32 or uint8"
        )
    if scaled.ndim == 2:
        scaled = scaled.mean(axis=1, dtype=np.float32)
    return np.clip(scaled, -1.0, 1.0)


def from_array(samples: Any, sample_rate: float, source: str = "this audio") -> np.ndarray:
    """An array (S,) or (S, channels) at any rate -> waveform (S',) float32 at 16 kHz.

    Raises:
        AudioError: no samples, or what ``mono`` and ``check_sample_rate`` refuse.
    """
    rate = check_sample_rate(sample_rate, source)
    waveform = mono(samples, source)
    if not len(waveform):
        raise AudioError(f"{source} has no samples")
    if rate == SAMPLE_RATE:
        return waveform
    resampler = Resampler(rate)
    resampled = np.concatenate([resampler.feed(waveform), resampler.finish()])
    if not len(resampled):
        raise AudioError(too_short(source, len(waveform), rate))
    return resampled


def too_short(source: str, samples: int, sample_rate: int) -> str:
    """Why there is no sound in ``samples`` at their rate."""
    return f"{source} is too short: its {samples} samples at {sample_rate} Hz make none at 16 kHz"


class Resampler:
    """Mono float32 blocks at one rate to blocks at 16 kHz, without seams."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._stream = None
        if sample_rate != SAMPLE_RATE:
            self._stream = soxr.ResampleStream(
                sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
            )

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Samples (S,) in; what is ready (S',) out, a little later than it went in."""
        return block if self._stream is None else self._clipped(block, last=False)

    def finish(self) -> np.ndarray:
        """The samples that are still inside."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._clipped(nothing, last=True)

    def _clipped(self, block: np.ndarray, last: bool) -> np.ndarray:
        assert self._stream is not None
        # The low-pass filter overshoots on clipped recordings.
        return np.clip(self._stream.resample_chunk(block, last=last), -1.0, 1.0)


def _check_floats(array: np.ndarray, source: str, start_seconds: float) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        where = int(np.argwhere(~finite)[0][0])
        at = f"{where} of the block at {start_seconds:.2f} s" if start_seconds else str(where)
        raise AudioError(
            f"{source} holds {array.size - int(finite.sum())} values that are not numbers (NaN or "
            f"infinity), the first at sample {at}; expected finite samples"
        )
    peak = float(np.abs(array).max(initial=0.0))
    if peak > _UNSCALED_PEAK:
        raise AudioError(
            f"{source} has float samples up to {peak:g}, expected [-1, 1]; divide by the full "
            "scale (32768 for 16 bits)"
        )
