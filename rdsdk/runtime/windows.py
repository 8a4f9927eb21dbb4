"""Samples to frames through a full-context program: one call, or overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdsdk.audio.frames import recording_frames
from rdsdk.errors import ConfigError
from rdsdk.runtime.layers import FrameProgram
from rdsdk.runtime.program import Output
from rdsdk.runtime.samples import Samples


class WindowedFrames:
    """Feed samples in any portions; every frame comes out once, in order.

    A recording that fits the program is one call and gives exactly what the model gives. A longer
    one runs in windows of that length; ``margin_seconds`` at each inner edge are computed twice
    and kept from the window that sees further around them.
    """

    def __init__(self, program: FrameProgram, margin_seconds: float = 2.0) -> None:
        card = program.card
        self._program = program
        self._hop = card.hop_samples
        self._overlap = card.receptive_field_samples - card.hop_samples
        method = card.methods["forward"]
        self._least = method.min_samples
        self._window_frames = (method.max_samples - self._overlap) // self._hop
        # At most a quarter either side: half of each window at least is new.
        wanted = round(margin_seconds * card.sample_rate / self._hop)
        self._margin = min(wanted, self._window_frames // 4)
        if wanted < 0:
            raise ConfigError(f"margin_seconds is {margin_seconds}, expected 0 or more")
        self.reset()

    def reset(self) -> None:
        """Forget everything fed."""
        self._pending = Samples()
        self._is_first = True
        self._skip = 0  # frames at the front of the pending samples that were given already

    def feed(self, block: np.ndarray) -> Iterator[Output]:
        """Take samples (S,) at once; the frames of the windows now complete come as asked.

        Raises:
            ModelError: the program failed; the samples are kept and the next feed tries again.
        """
        self._pending.add(block)
        return self._complete_windows()

    def finish(self) -> Iterator[Output]:
        """The frames that remain.

        As in the model, less than a hop of samples after the last whole frame gives no frame. Only
        a recording below the program's minimum is padded with silence, and keeps its last samples.
        """
        yield from self._complete_windows()
        length = len(self._pending)
        if not length:
            return
        waveform = self._pending.first(length)
        frames = (length - self._overlap) // self._hop
        if length < self._least:
            waveform = np.pad(waveform, (0, self._least - length))
            if self._is_first:
                frames = recording_frames(length, self._hop, self._overlap)
        output = self._program.forward(waveform)
        self._pending = Samples()
        yield _cut(output, self._skip, frames)

    def _complete_windows(self) -> Iterator[Output]:
        size = self._window_frames * self._hop + self._overlap
        most = self._program.card.methods["forward"].max_samples
        # More than a window must be there: exactly one may be the whole recording.
        while len(self._pending) > most:
            output = self._program.forward(self._pending.first(size))
            end = self._window_frames - self._margin
            first, self._skip = self._skip, self._margin
            self._is_first = False
            self._pending.drop((end - self._margin) * self._hop)
            yield _cut(output, first, end)


def _cut(output: Output, start: int, end: int) -> Output:
    log_probs = None if output.log_probs is None else output.log_probs[start:end]
    return Output(log_probs, output.hidden[start:end], output.state)
