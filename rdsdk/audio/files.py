"""Any sound file -> 16 kHz mono float32, block by block: a long recording is never held whole.

A file that breaks off (a truncated download, a damaged frame) gives all that could be decoded and
then a ``TruncatedAudioWarning`` with the seconds that were read; only a file that gives nothing is
an error. Formats that do not declare their length, Ogg among them, cannot be seen to be cut, and of
several recordings joined into one file, as by ``cat a.mp3 b.mp3``, the first alone may be read.
"""

from __future__ import annotations

import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from rdsdk.audio.samples import (
    SAMPLE_RATE,
    Resampler,
    check_sample_rate,
    from_array,
    mono,
    too_short,
)
from rdsdk.errors import AudioError

__all__ = [
    "SAMPLE_RATE",
    "ForwardFile",
    "TruncatedAudioWarning",
    "duration_seconds",
    "from_array",
    "read",
    "read_blocks",
    "read_raw",
]

# Short, because a damaged frame costs everything that was decoded together with it.
_DECODE_SECONDS = 0.25
# Encoders pad and decoders trim by a few frames; less than this is not a cut.
_TOLERANCE_SECONDS = 0.25
# A writer that cannot seek leaves "unknown" in the header.
_UNKNOWN_BYTES = 0x7FFFFFFF - 0x10000
_UNKNOWN_FRAMES = 2**48


class TruncatedAudioWarning(UserWarning):
    """A recording broke off; what came before it was read."""


class ForwardFile(soundfile.SoundFile):
    """A sound file that is only read on and on.

    Soundfile seeks to where it already is after every read. In an mp3 that lands a little beside,
    so block by block the sound comes out broken while a single read of the whole is right.
    """

    def seekable(self) -> bool:
        return False


def read(path: str | Path) -> np.ndarray:
    """The whole file as a waveform (S,) float32 at 16 kHz.

    Raises:
        AudioError: see ``read_blocks``.
    """
    return np.concatenate(list(read_blocks(path)))


def read_blocks(path: str | Path, block_seconds: float = 5.0) -> Iterator[np.ndarray]:
    """The file as consecutive blocks of about ``block_seconds``, each (S,) float32 at 16 kHz.

    The file is opened at once, so that a bad path fails here and not at the first block.

    Raises:
        AudioError: missing, a folder, empty, not a sound file, without samples, of an absurd
            rate, or with samples that are not numbers (that one when its block is read).
    """
    sound = _open(Path(path))
    return _blocks(sound, Path(path), block_seconds)


def duration_seconds(path: str | Path) -> float | None:
    """How long the file says it is, for progress; None when it does not say.

    Raises:
        AudioError: as ``read_blocks``.
    """
    with _open(Path(path)) as sound:
        frames = _declared_frames(sound)
        return frames / sound.samplerate if frames else None


def read_raw(
    stream: BinaryIO, sample_rate: float, channels: int = 1, block_seconds: float = 0.1
) -> Iterator[np.ndarray]:
    """Little-endian 16-bit samples without a header, such as a pipe -> blocks at 16 kHz.

    Blocks come as soon as their bytes do. Half a sample at the very end is ignored.

    Raises:
        AudioError: an absurd rate or channel count, or nothing came at all.
    """
    rate = check_sample_rate(sample_rate, "raw audio")
    if not 1 <= channels <= 64:
        raise AudioError(f"raw audio has {channels} channels, expected 1 to 64")
    return _raw_blocks(stream, rate, channels, block_seconds)


def _raw_blocks(
    stream: BinaryIO, rate: int, channels: int, block_seconds: float
) -> Iterator[np.ndarray]:
    frame_bytes = 2 * channels
    wanted = max(1, round(block_seconds * rate)) * frame_bytes
    # A pipe gives what it has with read1; read would wait for all of it.
    take = getattr(stream, "read1", stream.read)
    resampler = Resampler(rate)
    rest, heard = b"", False
    while got := take(wanted):
        data = rest + got
        whole = len(data) - len(data) % frame_bytes
        rest = data[whole:]
        if whole:
            heard = True
            samples = np.frombuffer(data[:whole], "<i2").astype(np.int16).reshape(-1, channels)
            yield from _some(resampler.feed(mono(samples, "raw audio")))
    if not heard:
        raise AudioError("raw audio has no samples: the input ended before the first one")
    yield from _some(resampler.finish())


def _open(path: Path) -> ForwardFile:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path} is a folder, expected a sound file")
        if not stat.S_ISREG(mode):
            # To look at its beginning would take that away.
            raise AudioError(
                f"{path} is no file but a pipe or a device; pipe raw samples in instead "
                "(rdsdk transcribe --raw-rate HZ -)"
            )
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise AudioError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f"cannot read {str(path)!r}: {reason}") from None
    if empty:
        raise AudioError(f"{path} is empty, expected a sound file")
    try:
        sound = ForwardFile(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} is not a sound file that can be read ({error.error_string.rstrip('.')}); "
            "expected wav, flac, ogg, opus or mp3"
        ) from None
    except TypeError:  # soundfile asks for the format of anything named .raw
        raise AudioError(
            f"{path} has no header to tell its format; pipe it in instead "
            "(rdsdk transcribe --raw-rate HZ - < FILE)"
        ) from None
    try:
        check_sample_rate(sound.samplerate, str(path))
    except AudioError:
        sound.close()
        raise
    return sound


def _blocks(sound: ForwardFile, path: Path, block_seconds: float) -> Iterator[np.ndarray]:
    gathered: list[np.ndarray] = []
    ready = 0
    with sound:
        try:
            for block in _decoded(sound, path):
                gathered.append(block)
                ready += len(block)
                if ready >= block_seconds * SAMPLE_RATE:
                    yield np.concatenate(gathered)
                    gathered, ready = [], 0
        except AudioError:
            if ready:
                yield np.concatenate(gathered)
            raise
    if ready:
        yield np.concatenate(gathered)


def _decoded(sound: ForwardFile, path: Path) -> Iterator[np.ndarray]:
    rate = sound.samplerate
    resampler = Resampler(rate)
    declared = max(_declared_frames(sound), _declared_wav_frames(sound))
    frames, given, broken = 0, 0, False
    while True:
        try:
            block = sound.read(int(_DECODE_SECONDS * rate), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            broken = True
            block = np.zeros((0, sound.channels), np.float32)
        if not len(block):
            break
        for waveform in _some(resampler.feed(mono(block, str(path), frames / rate))):
            given += len(waveform)
            yield waveform
        frames += len(block)
    if not frames:
        reason = "nothing in it can be decoded: it is damaged" if broken else "it has no samples"
        raise AudioError(f"{path}: {reason}; expected a recording")
    rest = resampler.finish()
    if not given and not len(rest):
        raise AudioError(too_short(str(path), frames, rate))
    yield from _some(rest)
    if broken or declared - frames > _TOLERANCE_SECONDS * rate:
        length = f" of {declared / rate:.1f} s" if declared > frames else ""
        warnings.warn(
            TruncatedAudioWarning(
                f"{path} is cut off or damaged: {frames / rate:.1f} s{length} could be read"
            ),
            stacklevel=2,
        )


def _declared_frames(sound: ForwardFile) -> int:
    """0 if the header does not say; libsndfile puts the largest number there is for that."""
    return sound.frames if 0 < sound.frames < _UNKNOWN_FRAMES else 0


def _declared_wav_frames(sound: ForwardFile) -> int:
    # libsndfile silently corrects the length of a cut WAV; only its log tells what was declared.
    found = re.search(r"^\s*data\s*:\s*(\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if not found or not sound.frames:
        return 0
    declared, real = int(found[1]), int(found[2])
    if declared >= _UNKNOWN_BYTES or not real:
        return 0
    return int(declared * sound.frames / real)


def _some(block: np.ndarray) -> Iterator[np.ndarray]:
    if len(block):
        yield block
