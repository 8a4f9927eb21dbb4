"""rdsdk: distil a speech model into a small student, export it, run it on files and microphones.

The public names are imported when they are first used, so ``import rdsdk`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdsdk.audio.files import TruncatedAudioWarning as TruncatedAudioWarning
    from rdsdk.audio.files import duration_seconds as duration_seconds
    from rdsdk.audio.files import read_blocks as read_blocks
    from rdsdk.audio.microphone import InputDevice as InputDevice
    from rdsdk.audio.microphone import Microphone as Microphone
    from rdsdk.audio.microphone import SilentMicrophoneWarning as SilentMicrophoneWarning
    from rdsdk.audio.microphone import input_devices as input_devices
    from rdsdk.audio.speech_gate import SpeechGate as SpeechGate
    from rdsdk.decoding.segment import Segment as Segment
    from rdsdk.decoding.segment import Word as Word
    from rdsdk.decoding.settings import BeamSettings as BeamSettings
    from rdsdk.errors import AudioError as AudioError
    from rdsdk.errors import CheckpointError as CheckpointError
    from rdsdk.errors import ConfigError as ConfigError
    from rdsdk.errors import DataError as DataError
    from rdsdk.errors import DeviceError as DeviceError
    from rdsdk.errors import ExportError as ExportError
    from rdsdk.errors import ModelError as ModelError
    from rdsdk.errors import RdsdkError as RdsdkError
    from rdsdk.runtime.card import Card as Card
    from rdsdk.runtime.endpoint import EndpointRules as EndpointRules
    from rdsdk.runtime.recognizer import DEFAULT_MODEL as DEFAULT_MODEL
    from rdsdk.runtime.recognizer import Recognizer as Recognizer
    from rdsdk.runtime.recognizer import bundled_models as bundled_models
    from rdsdk.runtime.recognizer import load as load
    from rdsdk.runtime.recognizer import transcribe as transcribe
    from rdsdk.runtime.stream import Stream as Stream

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(
        ("TruncatedAudioWarning", "duration_seconds", "read_blocks"), "rdsdk.audio.files"
    ),
    **dict.fromkeys(
        ("InputDevice", "Microphone", "SilentMicrophoneWarning", "input_devices"),
        "rdsdk.audio.microphone",
    ),
    "SpeechGate": "rdsdk.audio.speech_gate",
    **dict.fromkeys(("Segment", "Word"), "rdsdk.decoding.segment"),
    **dict.fromkeys(
        (
            "AudioError",
            "CheckpointError",
            "ConfigError",
            "DataError",
            "DeviceError",
            "ExportError",
            "ModelError",
            "RdsdkError",
        ),
        "rdsdk.errors",
    ),
    "BeamSettings": "rdsdk.decoding.settings",
    "Card": "rdsdk.runtime.card",
    "EndpointRules": "rdsdk.runtime.endpoint",
    "Stream": "rdsdk.runtime.stream",
    **dict.fromkeys(
        ("DEFAULT_MODEL", "Recognizer", "bundled_models", "load", "transcribe"),
        "rdsdk.runtime.recognizer",
    ),
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'rdsdk' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
