"""One listener: blocks of samples in, segments out. Cheap; many may share one recogniser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from rdsdk.audio.samples import SAMPLE_RATE, Resampler, check_sample_rate, mono
from rdsdk.audio.speech_gate import SpeechGate
from rdsdk.decoding.decoder import new_decoder
from rdsdk.decoding.segment import Segment
from rdsdk.decoding.settings import Search
from rdsdk.errors import ConfigError, ModelError
from rdsdk.runtime.chunks import ChunkedFrames
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.gating import Gating
from rdsdk.runtime.layers import FrameProgram
from rdsdk.runtime.program import Output, Program
from rdsdk.runtime.segmenter import Segmenter
from rdsdk.runtime.windows import WindowedFrames

FrameSource = ChunkedFrames | WindowedFrames


def frame_source(program: FrameProgram, call_seconds: float = 5.0) -> FrameSource:
    """Chunks for a streaming program, windows for a full-context one."""
    if program.card.context is None:
        return WindowedFrames(program)
    return ChunkedFrames(program, call_seconds)


class Stream:
    """Feed blocks of any size; the final segments are the same as for the whole at once, but for
    rounding, on which a wide beam search can now and then turn.

    Not for several threads at a time: use one stream for each source of sound.

    Args:
        program: a program with the task ``ctc``.
        rules: when a segment is over.
        partials: whether ``feed`` also gives the segment that is still being heard.
        gate: no words outside speech, as it tells speech; None hears words everywhere. Features
            are the same with and without.
        beam: a beam search, with a language model if it names one, or "greedy" for the likeliest
            symbols; None is the search of the model's card, greedy if it has none.
        hotwords: names and terms to expect; they need a beam search and start one.

    Raises:
        ModelError: the program gives features only, or the language model cannot be read.
        ConfigError: the package that a gate or a beam search needs is not installed, or a hotword
            cannot be written with the model's symbols.
    """

    def __init__(
        self,
        program: Program,
        rules: EndpointRules | None = None,
        partials: bool = True,
        gate: SpeechGate | None = None,
        beam: Search | None = None,
        hotwords: Sequence[str] = (),
    ) -> None:
        card = program.card
        if card.vocabulary is None or card.task != "ctc":
            raise ModelError(
                f"{program.path} ({card.name}) gives features and no text; use features(), or a "
                "model with the task ctc"
            )
        self._partials = partials
        self._sample_rate = card.sample_rate
        self._width = int(card.architecture["width"])
        self._frames = frame_source(program)
        self._gating = Gating(gate, card)
        if beam == "greedy" and hotwords:
            raise ConfigError("hotwords need a beam search, and a greedy reading was asked for")
        search = None if beam == "greedy" else beam or program.search
        decoder = new_decoder(card.vocabulary, card.frame_seconds, search, hotwords)
        self._segmenter = Segmenter(decoder, rules or EndpointRules())
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next sample is at second 0."""
        self._frames.reset()
        self._gating.reset()
        self._segmenter.reset()
        self._resampler: Resampler | None = None
        self._ready: list[Segment] = []
        self._hidden: list[np.ndarray] = []  # for features() to give
        self._shown = ""
        self._samples = 0
        self._ended = False  # no more sound, though the last segments may not be given yet
        self._over = False

    @property
    def seconds(self) -> float:
        """How much sound was fed since the last reset."""
        return self._samples / self._sample_rate

    def feed(self, block: Any, sample_rate: float = SAMPLE_RATE) -> list[Segment]:
        """Hear a block (S,) or (S, channels), float in [-1, 1] or integers, of any length.

        Returns:
            The segments that became final, then at most one partial if its text changed: an empty
            one if what was shown turned out to be nothing.

        Raises:
            AudioError: samples that are not numbers or a wrong shape; nothing of the block was
                fed and the stream goes on with the next.
            ConfigError: after ``finish``, or with another rate than before: call ``reset`` first.
            ModelError: the program failed; the block is kept and the next feed tries it again.
        """
        self._require_open()
        asked = len(self._hidden)  # by a features() that failed, and to be given by the next
        try:
            self._hear(self._resampled(mono(block, "the block"), sample_rate))
        finally:
            del self._hidden[asked:]
        return self._take(partials=self._partials)

    def features(self, block: Any = None, sample_rate: float = SAMPLE_RATE) -> np.ndarray:
        """The hidden states (T, D) float32 of the frames that a block completed, in the same pass
        as its text: ``feed`` and ``finish`` give the segments of what was heard here.

        Without a block there is no more sound, and the frames that remain are given; ``finish``
        then gives the last segments.

        Raises:
            AudioError, ConfigError, ModelError: as ``feed``; the next call gives what this one
                had until then.
        """
        self._require_open()
        if block is None:
            self._hear_the_end()
            self._ended = True
        else:
            self._hear(self._resampled(mono(block, "the block"), sample_rate))
        hidden, self._hidden = self._hidden, []
        return np.concatenate([np.zeros((0, self._width), np.float32), *hidden])

    def finish(self) -> list[Segment]:
        """There is no more sound: the last segments, all final. A second call gives none.

        Raises:
            ModelError: the program failed; calling again tries again.
        """
        if self._over:
            return []
        self._hear_the_end()
        return self.give_up()

    def give_up(self) -> list[Segment]:
        """The last segments of what was read, all final, without reading the sound that waits: for
        when the program failed, and ``finish`` would fail again."""
        if self._over:
            return []
        self._ready += self._segmenter.finish(self.seconds)
        self._hidden = []
        self._ended = self._over = True
        return self._take(partials=False)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the sound; what ``finish`` was not asked for is lost."""
        self.reset()
        self._ended = self._over = True

    def _require_open(self) -> None:
        if self._ended:
            raise ConfigError("this stream is finished; call reset() to use it again")

    def _rest(self) -> np.ndarray:
        """What is still inside the resampler, once."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest, self._resampler = self._resampler.finish(), None
        return rest

    def _resampled(self, samples: np.ndarray, sample_rate: float) -> np.ndarray:
        if self._resampler is None:
            if self._samples and sample_rate != SAMPLE_RATE:
                raise ConfigError(_rate_changed(sample_rate, SAMPLE_RATE))
            if sample_rate == SAMPLE_RATE:
                return samples
            self._resampler = Resampler(check_sample_rate(sample_rate, "the block"))
        if sample_rate != self._resampler.sample_rate:
            raise ConfigError(_rate_changed(sample_rate, self._resampler.sample_rate))
        return self._resampler.feed(samples)

    def _hear(self, waveform: np.ndarray) -> None:
        """Read the frames that samples (S,) completed."""
        self._samples += len(waveform)
        self._gating.hear(waveform)
        self._decode(self._frames.feed(waveform))

    def _hear_the_end(self) -> None:
        """Read the frames that remain."""
        self._hear(self._rest())
        # These frames reach beyond the last sample; what they say must not.
        self._decode(self._frames.finish(), self.seconds)
        # Only after success: until then, a failed call can be followed by more sound.
        self._gating.finish()
        self._segment(self.seconds)

    def _decode(self, outputs: Iterator[Output], latest_seconds: float = math.inf) -> None:
        self._segment(latest_seconds)
        for output in outputs:
            if output.log_probs is None:
                raise ModelError("the program gave no log_probs")
            self._gating.add(output.log_probs)
            # Kept, so that a failure of a later chunk does not lose what this one said.
            self._hidden.append(output.hidden)
            self._segment(latest_seconds)

    def _segment(self, latest_seconds: float) -> None:
        for log_probs in self._gating.take():
            self._ready += self._segmenter.feed(log_probs, latest_seconds)

    def _take(self, partials: bool) -> list[Segment]:
        # What may be interrupted comes before what is given is no longer there.
        partial = self._segmenter.partial() if partials else None
        segments, self._ready = self._ready, []
        if segments:
            self._shown = ""
        if partial is None and partials and self._shown:
            # What was shown turned out to be nothing, and is to be taken back.
            partial = Segment("", (), self.seconds, self.seconds, is_final=False)
        if partial is not None and partial.text != self._shown:
            self._shown = partial.text
            segments.append(partial)
        return segments


def _rate_changed(got: float, had: int) -> str:
    return f"got a block at {got} Hz after blocks at {had} Hz; call reset() to change the rate"
