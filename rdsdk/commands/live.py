"""Live captions: what a microphone hears, in the terminal or, piped, as finished lines."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from rdsdk.audio.microphone import Microphone, SilentMicrophoneWarning
from rdsdk.audio.recording import Recording
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.commands.console import complain, warnings_shown
from rdsdk.decoding.segment import Segment
from rdsdk.errors import DeviceError
from rdsdk.runtime.recognizer import Recognizer

_METER_CELLS = 16
_METER_FLOOR_DB = -60.0
_HISTORY_SECONDS = 10.0


class Speed:
    """How long the last ten seconds of sound took to recognise."""

    def __init__(self) -> None:
        self._history: deque[tuple[float, float]] = deque()

    def add(self, sound_seconds: float, work_seconds: float) -> None:
        self._history.append((sound_seconds, work_seconds))
        while sum(sound for sound, _ in self._history) > _HISTORY_SECONDS:
            self._history.popleft()

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound; 0 before anything was heard."""
        sound = sum(sound for sound, _ in self._history)
        return sum(work for _, work in self._history) / sound if sound else 0.0


def meter(level_dbfs: float) -> str:
    """A bar from -60 dB (empty) to full scale."""
    share = (max(level_dbfs, _METER_FLOOR_DB) - _METER_FLOOR_DB) / -_METER_FLOOR_DB
    filled = round(min(1.0, share) * _METER_CELLS)
    return "█" * filled + "░" * (_METER_CELLS - filled)


def run(recognizer: Recognizer, arguments: argparse.Namespace) -> int:
    """Listen until Ctrl-C, which finishes the last words.

    Returns:
        0; 2 when the microphone could not be used or went away, after what it heard before.
    """
    from rdsdk.commands.transcribe import hearing

    microphone = Microphone(arguments.device)
    stream = recognizer.stream(**hearing(arguments, recognizer))
    with Recording(arguments.record) as recording, microphone, _ctrl_c(microphone.stop):
        screen = _Screen(microphone, arguments) if sys.stdout.isatty() else _Lines(arguments)
        speed, failure = Speed(), None
        with screen, warnings_shown(SilentMicrophoneWarning, screen.say), stream:
            try:
                for block in microphone:
                    recording.add(block)
                    begun = time.perf_counter()
                    segments = stream.feed(block)
                    speed.add(len(block) / SAMPLE_RATE, time.perf_counter() - begun)
                    screen.show(segments, speed)
            except DeviceError as error:
                failure = error
            screen.show(stream.finish(), speed)
    if failure is not None:
        complain(failure)
        return 2
    return 0


class _Lines:
    """Not a terminal: finished segments, nothing else."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, segments: list[Segment], speed: Speed) -> None:
        from rdsdk.commands.transcribe import show

        for segment in segments:
            if segment.is_final:
                show(segment, "microphone", self._arguments)

    def say(self, text: str) -> None:
        complain(text, "warning")


class _Screen(_Lines):
    """A terminal: finished segments scroll by; below them what is being said, dim, and a footer."""

    def __init__(self, microphone: Microphone, arguments: argparse.Namespace) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(arguments)
        self._microphone = microphone
        self._partial: Segment | None = None
        self._live = Live(console=Console(), refresh_per_second=12, transient=True)

    def __enter__(self) -> _Screen:
        self._live.start()
        self._live.update(self._picture(Speed()))
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, segments: list[Segment], speed: Speed) -> None:
        for segment in segments:
            self._partial = None if segment.is_final else segment
        # Printed while the picture is up, finished lines land above it.
        super().show(segments, speed)
        self._live.update(self._picture(speed))

    def say(self, text: str) -> None:
        self._live.console.print(text, style="yellow", markup=False, highlight=False)

    def _picture(self, speed: Speed) -> Any:
        from rich.console import Group
        from rich.text import Text

        heard = Text()
        if self._partial is not None:
            heard.append(self._partial.stable)
            heard.append(self._partial.text[len(self._partial.stable) :], style="dim")
        device = self._microphone
        level = device.level_dbfs if np.isfinite(device.level_dbfs) else _METER_FLOOR_DB
        facts = [
            device.name,
            f"{meter(level)} {level:4.0f} dB",
            f"real-time factor {speed.real_time_factor:.3f}",
            f"behind {1000 * device.waiting_seconds:.0f} ms",
        ]
        lost = device.dropped_seconds
        if lost or device.overflows or device.underflows:
            counts = f"{device.overflows} overflows, {device.underflows} underflows"
            facts.append(f"lost {lost:.1f} s, {counts}")
        footer = Text("  ".join([*facts, "Ctrl-C ends"]), style="cyan", no_wrap=True)
        return Group(heard, footer)


@contextmanager
def _ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C ends the listening in good order, a second one at once."""
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
