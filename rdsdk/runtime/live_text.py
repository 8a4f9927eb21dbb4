"""What live text takes: a recording in blocks through a stream, search and language models too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdsdk.audio import files
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.errors import AudioError
from rdsdk.runtime.percentiles import percentiles
from rdsdk.runtime.program import Program
from rdsdk.runtime.stream import Stream

FULL_CONTEXT_BLOCK_MS = 320.0


@dataclass(frozen=True)
class LiveText:
    """What one process measured of text. A real-time factor is processing time over audio time.

    Args:
        sound_seconds: of the recording, in a pass.
        prepare_seconds: until the first stream is there: language models and lexicon are read.
        real_time_factor: the median pass.
        fastest_pass, slowest_pass: real-time factors; far apart, the machine was not quiet.
        p50_ms, p95_ms, p99_ms: what a block took, of all passes.
        block_ms: a chunk of a streaming model.
        end_ms: until the last segment is given when the sound is over, the median pass.
        words: that were recognised in the first pass.
        peak_mb: the most resident memory, that of the passes without text too; None where the
            system does not tell.
    """

    sound_seconds: float
    prepare_seconds: float
    real_time_factor: float
    fastest_pass: float
    slowest_pass: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    block_ms: float
    end_ms: float
    words: int
    peak_mb: float | None


def beginning(recording: Path, seconds: float) -> np.ndarray:
    """The first seconds of a recording, (S,) float32 at 16 kHz.

    Raises:
        AudioError: it cannot be read, or is shorter than a second.
    """
    wanted, parts = round(seconds * SAMPLE_RATE), []
    for block in files.read_blocks(recording):
        parts.append(block)
        if sum(map(len, parts)) >= wanted:
            break
    waveform = np.concatenate(parts)[:wanted] if parts else np.empty(0, np.float32)
    if len(waveform) < SAMPLE_RATE:
        raise AudioError(
            f"{recording} holds {len(waveform) / SAMPLE_RATE:.2f} s of sound, expected a second or "
            "more to measure with; give a longer recording"
        )
    return waveform


def measure_text(
    program: Program,
    waveform: np.ndarray,
    passes: int,
    on_pass: Callable[[int], None],
    peak_mb: Callable[[], float | None],
) -> LiveText:
    """Stream a recording so many times, block by block, partials included.

    Raises:
        ModelError: the program gives features and no text, or a language model cannot be read.
    """
    card = program.card
    block = round(FULL_CONTEXT_BLOCK_MS * SAMPLE_RATE / 1000)
    if card.context is not None:
        block = card.chunk_samples
    begun = time.perf_counter()
    stream = Stream(program)
    prepared = time.perf_counter() - begun
    sound_seconds = len(waveform) / SAMPLE_RATE
    factors: list[float] = []
    blocks: list[float] = []
    ends: list[float] = []
    words = 0
    for number in range(passes):
        stream.reset()
        took = []
        for first in range(0, len(waveform), block):
            begun = time.perf_counter()
            segments = stream.feed(waveform[first : first + block])
            took.append(time.perf_counter() - begun)
            if number == 0:
                words += sum(len(one.words) for one in segments if one.is_final)
        begun = time.perf_counter()
        segments = stream.finish()
        ends.append(time.perf_counter() - begun)
        if number == 0:
            words += sum(len(one.words) for one in segments)
        factors.append((sum(took) + ends[-1]) / sound_seconds)
        blocks += took
        on_pass(number + 1)
    return LiveText(
        sound_seconds=sound_seconds,
        prepare_seconds=prepared,
        real_time_factor=statistics.median(factors),
        fastest_pass=min(factors),
        slowest_pass=max(factors),
        **percentiles(blocks),
        block_ms=1000 * block / SAMPLE_RATE,
        end_ms=1000 * statistics.median(ends),
        words=words,
        peak_mb=peak_mb(),
    )
