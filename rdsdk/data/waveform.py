"""One cut -> one waveform: decoded, checked against its manifest, mono at 16 kHz."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr
from lhotse import MonoCut
from lhotse.audio.backend import (
    LibsndfileBackend,
    get_current_audio_backend,
    set_current_audio_backend,
)
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
    file = _plain_file(cut)
    samples = _load_with_lhotse(cut) if file is None else _load_file(cut, file)
    rate = cut.sampling_rate
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if not np.isfinite(samples).all():
        raise DataError(f"the recording of {cut.id} holds NaN or infinite samples; mend or drop it")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _plain_file(cut: Cut) -> str | io.BytesIO | None:
    """The file, if the cut is a stretch of one untransformed file; lhotse loads all else."""
    if type(cut) is not MonoCut or cut.recording is None or cut.recording.transforms:
        return None
    sources = cut.recording.sources
    if len(sources) != 1 or sources[0].type not in ("file", "memory"):
        return None
    # In memory: a file out of a Shar archive.
    source = sources[0].source
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _load_file(cut: MonoCut, path: str | io.BytesIO) -> NDArray[np.float32]:
    name = path if isinstance(path, str) else "a recording in memory"
    # Not through lhotse: it neither compares the rate with the manifest's nor takes a length that
    # is a codec packet off, and it falls through to torchaudio when a file cannot be decoded.
    whole = cut.start == 0 and cut.duration == cut.recording.duration
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != cut.sampling_rate:
                raise DataError(
                    f"{name} (id {cut.id}) has {file.samplerate} Hz but its manifest says "
                    f'{cut.sampling_rate}; put "sample_rate": {file.samplerate} in its row'
                )
            if cut.start:
                file.seek(min(round(cut.start * file.samplerate), file.frames))
            frames = -1 if whole else round(cut.duration * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{name} (id {cut.id}) cannot be decoded: {error}") from error
    got = samples.shape[0] / cut.sampling_rate
    if abs(got - cut.duration) > TOLERANCE_SECONDS:
        raise DataError(
            f"{name} (id {cut.id}) holds {got:.3f} s but its manifest says {cut.duration:.3f} s; "
            "write the manifest again"
        )
    channels = cut.recording.channel_ids
    # A recording that declares its channels is cut by channel, as telephone speech is; our own rows
    # declare one, whatever the file holds.
    if channels is not None and len(channels) > 1 and samples.shape[1] == len(channels):
        return samples[:, channels.index(cut.channel)]
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _load_with_lhotse(cut: Cut) -> NDArray[np.float32]:
    # libsndfile alone: lhotse's own choice asks torchaudio, whose import may raise anything.
    previous = get_current_audio_backend()
    set_current_audio_backend(LibsndfileBackend())
    try:
        samples = cut.load_audio()
    except Exception as error:  # lhotse raises whatever the readers raise
        raise DataError(f"the recording of {cut.id} cannot be decoded: {error}") from error
    finally:
        set_current_audio_backend(previous)
    if samples is None:
        raise DataError(f"{cut.id} has no recording; training needs waveforms, not features")
    return samples[0] if samples.shape[0] == 1 else samples.mean(axis=0)
