"""The one door to PocketSphinx, which aligns transcripts and hears beside our own models."""

from __future__ import annotations

from typing import Any

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.errors import ConfigError


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
