"""A microphone as blocks of the one waveform: native device rate in, 16 kHz mono out.

The audio callback only enqueues. Everything else (mixing down, resampling, watching) happens where
the blocks are taken, so a slow listener never makes the driver late.
"""

from __future__ import annotations

import queue
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdsdk.audio.samples import Resampler, check_sample_rate
from rdsdk.errors import ConfigError, DeviceError

_POLL_SECONDS = 0.1
_SILENT_SECONDS = 5.0


class SilentMicrophoneWarning(UserWarning):
    """The device gives nothing but zeros: muted, or this program may not listen."""


@dataclass(frozen=True)
class InputDevice:
    """Something that can be listened to; ``index`` and ``name`` are what Microphone takes."""

    index: int
    name: str
    host: str
    channels: int
    sample_rate: float
    is_default: bool


def sounddevice() -> Any:
    """The sounddevice module.

    Raises:
        DeviceError: it or PortAudio is not installed; says how to install what is missing.
    """
    try:
        import sounddevice as module
    except ImportError as error:
        raise DeviceError(
            "listening to a microphone needs sounddevice, which is not installed; run: pip "
            "install 'rdsdk[mic]'"
        ) from error
    except OSError as error:
        raise DeviceError(
            f"the PortAudio library is not installed ({error}); on Debian and Ubuntu run: "
            "apt-get install libportaudio2"
        ) from error
    return module


def input_devices() -> list[InputDevice]:
    """Every device with an input, in the order of their indices.

    Raises:
        DeviceError: the sound system cannot be asked.
    """
    module = sounddevice()
    try:
        found, hosts = module.query_devices(), module.query_hostapis()
        default = module.default.device[0]
    except module.PortAudioError as error:
        raise DeviceError(f"the sound system cannot be asked for its devices: {error}") from error
    return [
        InputDevice(
            index,
            str(device["name"]),
            str(hosts[device["hostapi"]]["name"]),
            int(device["max_input_channels"]),
            float(device["default_samplerate"]),
            index == default,
        )
        for index, device in enumerate(found)
        if device["max_input_channels"] > 0
    ]


class Microphone:
    """Iterate over it for blocks (S,) float32 at 16 kHz, until ``stop`` or an error.

    The device is opened when iteration begins (or by ``open`` or ``with``), not before, and closed
    when it ends. At most ``queue_seconds`` of sound wait for a listener that is too slow; what
    comes beyond that is dropped, counted in ``dropped_seconds`` and replaced by silence, so that
    the times of everything after it stay right.

    Args:
        device: an index or a part of a name; None is the system's default input.
        block_seconds: about how much sound one block holds.
        queue_seconds: how much sound may wait.
        watchdog_seconds: how long the device may give nothing before that is an error.

    Raises:
        ConfigError: a time is not positive.
    """

    def __init__(
        self,
        device: int | str | None = None,
        *,
        block_seconds: float = 0.04,
        queue_seconds: float = 30.0,
        watchdog_seconds: float = 3.0,
    ) -> None:
        if not 0 < block_seconds <= queue_seconds or not watchdog_seconds > 0:
            raise ConfigError(
                "a microphone needs 0 < block_seconds <= queue_seconds and watchdog_seconds > 0, "
                f"got {block_seconds}, {queue_seconds} and {watchdog_seconds}"
            )
        # A number that came as text, as from a command line, is an index all the same.
        is_index = isinstance(device, str) and device.isdigit()
        self.device = int(device) if device is not None and is_index else device
        self.block_seconds = block_seconds
        self.queue_seconds = queue_seconds
        self.watchdog_seconds = watchdog_seconds
        self.name = "" if device is None else str(device)
        self.sample_rate = 0
        """The device's own rate in Hz, once it is open."""
        self.overflows = 0
        """How often the driver itself lost sound."""
        self.underflows = 0
        """How often the device was late and the driver put silence in its place."""
        self.level_dbfs = -np.inf
        """The level of the newest block, in dB of full scale."""
        self._stream: Any = None
        self._waiting: queue.Queue[tuple[int, np.ndarray]] = queue.Queue()
        self._missed = self._dropped = 0
        self._stopped = False
        self._silent_samples = 0
        self._warned = False

    @property
    def dropped_seconds(self) -> float:
        """How much sound was dropped because it was not taken in time."""
        return self._dropped / self.sample_rate if self.sample_rate else 0.0

    @property
    def waiting_seconds(self) -> float:
        """How much sound waits to be taken: how far the listener is behind."""
        return self._waiting.qsize() * self.block_seconds

    def open(self) -> None:
        """Start listening; nothing happens if the device is open already.

        Raises:
            DeviceError: there is no such device, it is busy, or may not be used.
        """
        if self._stream is not None:
            return
        module = sounddevice()
        try:
            found = module.query_devices(self.device, "input")
            self.name = str(found["name"])
            self.sample_rate = check_sample_rate(found["default_samplerate"], self.name)
            frames = max(1, round(self.block_seconds * self.sample_rate))
            # Asked for all it has, a device with one good channel of two is still heard.
            channels = min(2, int(found["max_input_channels"]))
            self._waiting = queue.Queue(max(1, round(self.queue_seconds / self.block_seconds)))
            self._missed = self._silent_samples = 0
            self._warned = False
            self._stream = module.InputStream(
                device=self.device,
                samplerate=self.sample_rate,
                channels=channels,
                dtype="float32",
                blocksize=frames,
                callback=self._hear,
            )
            self._stream.start()
        except (module.PortAudioError, ValueError) as error:
            self.close()
            raise DeviceError(_cannot_open(self.device, error)) from error

    def close(self) -> None:
        """Let go of the device."""
        self._stopped = False
        stream, self._stream = self._stream, None
        if stream is not None:
            # Aborted, not stopped: stopping waits for a driver that may be gone.
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)

    def stop(self) -> None:
        """End the iteration after what has been heard so far; from any thread or handler.

        One that is about to begin ends at once: who said stop is not listened to.
        """
        self._stopped = True

    def __enter__(self) -> Microphone:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks until ``stop``; a device that fails raises after what it gave before.

        Raises:
            DeviceError: the device cannot be opened, has gone away, or gives nothing.
        """
        self.open()
        resampler = Resampler(self.sample_rate)
        failure: DeviceError | None = None
        try:
            while True:
                try:
                    item = self._next()
                except DeviceError as error:
                    failure = error
                    break
                if item is None:
                    break
                missed, block = item
                yield from self._gap(missed, resampler)
                mono = np.clip(block.mean(axis=1, dtype=np.float32), -1.0, 1.0)
                self._watch_level(mono)
                yield resampler.feed(mono)
            yield resampler.finish()
        finally:
            self.close()
        if failure is not None:
            raise failure

    def _hear(self, block: np.ndarray, frames: int, when: Any, status: Any) -> None:
        """The callback, on the driver's thread: it must never wait."""
        if self._stopped:
            return
        self.overflows += bool(status.input_overflow)
        self.underflows += bool(status.input_underflow)
        try:
            self._waiting.put_nowait((self._missed, block.copy()))
            self._missed = 0
        except queue.Full:
            self._missed += frames
            self._dropped += frames

    def _next(self) -> tuple[int, np.ndarray] | None:
        since = time.monotonic()
        while True:
            try:
                return self._waiting.get(timeout=0 if self._stopped else _POLL_SECONDS)
            except queue.Empty:
                pass
            if self._stopped:
                return None
            if self._stream is None:
                raise DeviceError(f"the microphone {self.name!r} was closed while it was heard")
            quiet = time.monotonic() - since
            if not self._stream.active:
                raise DeviceError(
                    f"the microphone {self.name!r} has gone away; plug it in again, or choose "
                    "another one (rdsdk doctor lists them)"
                )
            if quiet > self.watchdog_seconds:
                raise DeviceError(
                    f"the microphone {self.name!r} has given nothing for {quiet:.1f} s; it may be "
                    "unplugged, used by another program, or forbidden to this one (rdsdk doctor "
                    "looks closer)"
                )

    def _gap(self, missed: int, resampler: Resampler) -> Iterator[np.ndarray]:
        """Silence in the place of dropped sound, in blocks of ordinary size."""
        size = max(1, round(self.block_seconds * self.sample_rate))
        while missed > 0:
            yield resampler.feed(np.zeros(min(size, missed), np.float32))
            missed -= size

    def _watch_level(self, mono: np.ndarray) -> None:
        power = float(np.square(mono, dtype=np.float64).mean()) if len(mono) else 0.0
        self.level_dbfs = 10 * np.log10(power) if power > 0 else -np.inf
        self._silent_samples = 0 if power > 0 else self._silent_samples + len(mono)
        if self._silent_samples > _SILENT_SECONDS * self.sample_rate and not self._warned:
            self._warned = True
            warnings.warn(
                SilentMicrophoneWarning(
                    f"the microphone {self.name!r} gives nothing but zeros; it is muted, or the "
                    "system does not let this program listen"
                ),
                stacklevel=2,
            )


def _cannot_open(device: int | str | None, error: Exception) -> str:
    which = "the default microphone" if device is None else f"the microphone {device!r}"
    try:
        names = [f"{found.index}: {found.name}" for found in input_devices()]
    except DeviceError:
        names = []
    listed = f"inputs here: {', '.join(names)}" if names else "this machine has no sound input"
    return f"{which} cannot be opened: {error}; {listed}"
