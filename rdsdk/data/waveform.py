"""One cut -> one waveform: decoded, checked against its manifest, mono at 16 kHz."""

from __future__ import annotations

import numpy as np
import soundfile
import soxr
from lhotse import MonoCut
from lhotse.cut import Cut
from numpy.typing import NDArray

from rdsdk.data.manifest import SAMPLE_RATE
from rdsdk.errors import DataError

# Lossy codecs pad their last packet, and manifests round; more than this is another recording.
TOLERANCE_SECONDS = 0.1


def load_waveform(cut: Cut) -> NDArray[np.float32]:
    """Decode a cut to float32 (S,), mono, 16 000 Hz, in [-1, 1]; other rates are resampled.

    Raises:
        DataError: the recording cannot be decoded, has another rate or another length than the
            manifest says, or holds NaN or infinities.
    """
    plain = _plain_file(cut)
    if plain is None:
        samples, rate = _load_with_lhotse(cut), cut.sampling_rate
    else:
        samples, rate = _load_file(cut, plain), cut.sampling_rate
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not np.isfinite(samples).all():
        raise DataError(f"the recording of {cut.id} holds NaN or infinite samples; mend or drop it")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _plain_file(cut: Cut) -> str | None:
    """The path, if the cut is a stretch of one untransformed file; lhotse loads all else."""
    if type(cut) is not MonoCut or cut.recording is None or cut.recording.transforms:
        return None
    sources = cut.recording.sources
    return sources[0].source if len(sources) == 1 and sources[0].type == "file" else None


def _load_file(cut: MonoCut, path: str) -> NDArray[np.float32]:
    # Not through lhotse: it neither compares the rate with the manifest's nor takes a length that
    # is a codec packet off, and it falls through to torchaudio when a file cannot be decoded.
    whole = cut.start == 0 and cut.duration == cut.recording.duration
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != cut.sampling_rate:
                raise DataError(
                    f"{path} (id {cut.id}) has {file.samplerate} Hz but its manifest says "
                    f'{cut.sampling_rate}; put "sample_rate": {file.samplerate} in its row'
                )
            if cut.start:
                file.seek(min(round(cut.start * file.samplerate), file.frames))
            frames = -1 if whole else round(cut.duration * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path} (id {cut.id}) cannot be decoded: {error}") from error
    got = samples.shape[0] / cut.sampling_rate
    if abs(got - cut.duration) > TOLERANCE_SECONDS:
        raise DataError(
            f"{path} (id {cut.id}) holds {got:.3f} s but its manifest says {cut.duration:.3f} s; "
            "write the manifest again"
        )
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _load_with_lhotse(cut: Cut) -> NDArray[np.float32]:
    try:
        samples = cut.load_audio()
    except Exception as error:  # lhotse raises whatever its back ends raise
        raise DataError(f"the recording of {cut.id} cannot be decoded: {error}") from error
    if samples is None:
        raise DataError(f"{cut.id} has no recording; training needs waveforms, not features")
    return samples[0] if samples.shape[0] == 1 else samples.mean(axis=0)
