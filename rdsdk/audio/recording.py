"""What was heard, kept in a file while it is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.errors import AudioError


class Recording:
    """Writes blocks (S,) of the 16 kHz waveform to a sound file, 16 bit; to nothing if it is None.

    The kind of file is that of its name: .wav, .flac, .ogg. It is whole after every exit, an error
    included.

    Raises:
        AudioError: the file cannot be written, or its name ends in no kind of sound file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: soundfile.SoundFile | None = None
        if path is None:
            return
        try:
            self._file = soundfile.SoundFile(path, "w", SAMPLE_RATE, 1)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise AudioError(
                f"cannot record to {path}: {error}; give a file like talk.wav in a folder that is "
                "there"
            ) from error

    def add(self, block: np.ndarray) -> None:
        """Append a block."""
        if self._file is not None:
            self._file.write(block)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
