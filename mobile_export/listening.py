"""An artefact as something that hears a recording: waveform in, log_probs out.

Each hears it in one stream from the same beginning, as ``heard_log_probs`` of a checkpoint does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from mobile_export.programs import chunk_samples
from mobile_export.vectors import Step
from rdsdk.audio.frames import streamed_frames
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, EncoderConfig
from rdsdk.runtime.program import Output, Program
from rdsdk.runtime.stream import frame_source

LogProbs = Callable[[np.ndarray], torch.Tensor]
"""A recording (S,) at 16 kHz -> log_probs (T, V)."""


def program_log_probs(program: Program) -> LogProbs:
    """What a ``.pte`` hears, in the calls that the runtime makes of a recording."""

    def heard(samples: np.ndarray) -> torch.Tensor:
        frames = frame_source(program)
        return torch.from_numpy(
            np.concatenate(
                list(_log_probs(frames.feed(samples))) + list(_log_probs(frames.finish()))
            )
        )

    return heard


def stepped_log_probs(step: Step, config: EncoderConfig) -> LogProbs:
    """What a streaming artefact hears that is run chunk by chunk: as the checkpoint does, after a
    chunk of silence and with silence behind."""
    overlap = chunk_samples(config, 0)
    assert config.context is not None
    chunk_frames = config.context.chunk_frames
    whole = chunk_samples(config, 1)
    hop = whole - overlap

    def heard(samples: np.ndarray) -> torch.Tensor:
        _, state = step(np.zeros(whole, np.float32), None)
        frames = streamed_frames(len(samples), HOP_SAMPLES, OVERLAP_SAMPLES)
        chunks = -(-frames // chunk_frames)
        padded = np.pad(samples, (0, max(0, chunks * hop + overlap - len(samples))))
        outputs = []
        for start in range(0, chunks * hop, hop):
            log_probs, state = step(padded[start : start + whole], state)
            outputs.append(log_probs)
        return torch.from_numpy(np.concatenate(outputs)[:frames])

    return heard


def _log_probs(outputs: Iterator[Output]) -> Iterator[np.ndarray]:
    for output in outputs:
        assert output.log_probs is not None
        yield output.log_probs
