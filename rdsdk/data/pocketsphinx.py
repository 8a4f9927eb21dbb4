"""The one door to PocketSphinx, which aligns transcripts and hears beside our own models."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.data.word_spans import TimedWord
from rdsdk.errors import ConfigError

FRAMES_PER_SECOND = 100


def require() -> Any:
    """Its class of decoders, whose models are not loaded yet.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ConfigError(
            f"PocketSphinx is not installed ({error}); run: pip install pocketsphinx"
        ) from error
    return Decoder


def new_decoder(**settings: Any) -> Any:
    """A decoder of sound at 16 kHz with the English models of its package, which says nothing.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """
    return require()(samprate=float(SAMPLE_RATE), loglevel="FATAL", **settings)


def plain_word(written: str) -> str:
    """A word in capitals, without the number of its pronunciation: word(2) is WORD."""
    return re.sub(r"\(\d+\)$", "", written).upper()


def heard_words(decoder: Any, waveform: NDArray[np.float32]) -> list[TimedWord]:
    """What a decoder hears in (S,) samples at 16 kHz, in capitals; a second recording is heard as
    it has adapted to the first."""
    samples = (np.clip(waveform, -1, 1) * 32_767).astype("<i2")
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    return [
        (
            plain_word(segment.word),
            segment.start_frame / FRAMES_PER_SECOND,
            (segment.end_frame + 1) / FRAMES_PER_SECOND,
        )
        for segment in decoder.seg()
        if segment.word[0] not in "<[+"
    ]
