"""Samples to frames through a streaming program: whole chunks, carried samples, explicit state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdsdk.audio.frames import TAIL_FRAMES, recording_frames
from rdsdk.runtime.layers import FrameProgram
from rdsdk.runtime.program import Output
from rdsdk.runtime.samples import Samples


class ChunkedFrames:
    """Feed samples in any portions; every frame comes out once, in order.

    A stream begins after a chunk of silence, as a microphone does, and not out of nothing, which
    speech that is cut off tightly would be: a student hears first words better so.

    ``call_seconds`` bounds how much of a long block goes through the program at once: several
    chunks in one call are faster than one by one and give the same numbers.
    """

    def __init__(self, program: FrameProgram, call_seconds: float = 5.0) -> None:
        card = program.card
        assert card.context is not None
        self._program = program
        self._hop = card.hop_samples
        self._overlap = card.overlap_samples
        self._frame_overlap = card.receptive_field_samples - card.hop_samples
        self._chunk = card.chunk_samples
        most = (card.methods["forward"].max_samples - self._overlap) // self._chunk
        wanted = int(call_seconds * card.sample_rate) // self._chunk
        self._chunks_a_call = max(1, min(most, wanted))
        self.reset()

    def reset(self) -> None:
        """Forget everything fed."""
        self._pending = Samples()
        self._state = self._program.silent_state()
        self._frames = 0
        self._ended = False

    def feed(self, block: np.ndarray) -> Iterator[Output]:
        """Take samples (S,) at once; the frames of the chunks now complete come as they are asked.

        Raises:
            ModelError: the program failed; the samples are kept and the next feed tries again.
        """
        self._pending.add(block)
        return self._complete_chunks()

    def finish(self) -> Iterator[Output]:
        """The frames up to the last real sample, from last chunks filled up with silence.

        ``log_probs`` go on for ``TAIL_FRAMES`` into that silence; ``hidden`` do not.
        """
        yield from self._complete_chunks()
        total = self._pending.total
        if not total or self._ended:
            return
        missing = recording_frames(total, self._hop, self._frame_overlap) - self._frames
        rest = self._pending.first(len(self._pending))
        chunks = -(-(missing + TAIL_FRAMES) * self._hop // self._chunk)
        # What is there of the last chunk's right context may reach beyond it.
        padded = np.pad(rest, (0, max(0, chunks * self._chunk + self._overlap - len(rest))))
        outputs, state = [], self._state
        for start in range(0, chunks * self._chunk, self._chunk):
            block = padded[start : start + self._chunk + self._overlap]
            outputs.append(output := self._program.step(block, state))
            state = output.state
        # Only after success, so that a failed call can be tried again.
        self._ended = True
        for output in outputs:
            heard = max(0, missing + TAIL_FRAMES)
            log_probs = None if output.log_probs is None else output.log_probs[:heard]
            yield Output(log_probs, output.hidden[: max(0, missing)], output.state)
            missing -= len(output.hidden)

    def _complete_chunks(self) -> Iterator[Output]:
        while (chunks := (len(self._pending) - self._overlap) // self._chunk) > 0:
            yield self._run(min(chunks, self._chunks_a_call))

    def _run(self, chunks: int) -> Output:
        waveform = self._pending.first(chunks * self._chunk + self._overlap)
        run = self._program.step if chunks == 1 else self._program.forward
        output = run(waveform, self._state)
        # Only after success, so that a failed call loses nothing.
        self._pending.drop(chunks * self._chunk)
        self._state = output.state
        self._frames += len(output.hidden)
        return output
