"""A sound driver that hears what the test says, in the shape of sounddevice."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

CALM, OVERFLOW, UNDERFLOW = (
    types.SimpleNamespace(input_overflow=lost, input_underflow=late)
    for lost, late in ((False, False), (True, False), (False, True))
)


class FakeDriver(types.ModuleType):
    """sounddevice's shape: one input of two channels, fed by the test through ``hear``."""

    class PortAudioError(Exception):
        pass

    def __init__(self, rate: float = 48_000.0) -> None:
        super().__init__("sounddevice")
        self.rate = rate
        self.stream: Any = None
        self.default = types.SimpleNamespace(device=(0, 0))
        self.refuses = False
        driver = self

        class InputStream:
            def __init__(self, **settings: Any) -> None:
                if driver.refuses:
                    raise driver.PortAudioError("Device unavailable")
                self.settings, self.active, self.closed = settings, False, False
                driver.stream = self

            def start(self) -> None:
                self.active = True

            def abort(self, ignore_errors: bool) -> None:
                self.active = False

            def close(self, ignore_errors: bool) -> None:
                self.closed = True

        self.InputStream = InputStream

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        found = {
            "name": "Fake",
            "hostapi": 0,
            "max_input_channels": 2,
            "default_samplerate": self.rate,
        }
        speaker = {**found, "name": "Speaker", "max_input_channels": 0}
        if kind is None:
            return [speaker, found]
        if device not in (None, 1, "Fake"):
            raise ValueError(f"No input device matching {device!r}")
        return found

    def query_hostapis(self) -> list[dict[str, str]]:
        return [{"name": "Nothing"}]

    def hear(self, samples: np.ndarray, status: Any = CALM) -> None:
        """What the driver's thread would do with samples (S,)."""
        both = np.stack([samples, samples], axis=1).astype(np.float32)
        self.stream.settings["callback"](both, len(both), None, status)
