"""What streaming costs: a long soak, many streams on one program, and the price beside offline.

``python -m tests.benchmarks.streaming [--model NAME_OR_PTE] [--minutes 60] [--json FILE]``. One
thread. The recordings of the tests go round and round, in blocks of 40 ms as a microphone gives
them. The soak is fed as fast as it can be taken; its memory and its cost a chunk in the first and
in the last minute of sound are compared. Streams take turns, a block each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

import rdsdk
from rdsdk.audio import files
from rdsdk.runtime.machine import resident_mb
from rdsdk.runtime.percentiles import percentiles

ROOT = Path(__file__).parents[2]
RECORDINGS = sorted((ROOT / "tests" / "assets").glob("*/*.flac"))
BLOCK = 640
STREAMS = (1, 4, 16, 64)


def memory_mb() -> float:
    """What this process holds in memory now."""
    resident = resident_mb()
    if resident is None:
        raise SystemExit("this system does not tell what a process holds; measure on Linux")
    return resident


def sound() -> np.ndarray:
    """The recordings with a second of faint noise after each, (S,), whole blocks."""
    rng = np.random.default_rng(0)
    pieces = []
    for path in RECORDINGS:
        pieces += [files.read(path), 1e-4 * rng.normal(size=16_000).astype(np.float32)]
    joined = np.concatenate(pieces)
    return joined[: len(joined) // BLOCK * BLOCK]


def chunks_of(recognizer: rdsdk.Recognizer) -> int:
    """Samples of a chunk."""
    card = recognizer.card
    if card.context is None:
        raise SystemExit(f"{recognizer.path} is a full-context model; it has no chunks to stream")
    return card.chunk_samples


def soak(recognizer: rdsdk.Recognizer, minutes: int) -> dict[str, Any]:
    """One stream for ``minutes`` of sound."""
    blocks, chunk = cycle(sound().reshape(-1, BLOCK)), chunks_of(recognizer)
    stream = recognizer.stream()
    per_minute, memory, words = [], [], 0
    # Made at once: a list of a day's floats would be the growth that is measured.
    steps = np.ones((minutes, 60 * 16_000 // BLOCK))
    for minute in track(range(minutes), "soak", console=Console(stderr=True)):
        begun = time.perf_counter()
        for number in range(60 * 16_000 // BLOCK):
            before = time.perf_counter()
            segments = stream.feed(next(blocks))
            # Only some blocks complete a chunk; the others cost next to nothing.
            steps[minute, number] = time.perf_counter() - before
            words += sum(len(segment.words) for segment in segments if segment.is_final)
        per_minute.append((time.perf_counter() - begun) / (60 * 16_000 / chunk))
        memory.append(memory_mb())
    busiest = sorted(steps.flat)[-steps.size * BLOCK // chunk :]
    # The first minutes still fill caches; growth is what comes after a tenth of the whole.
    settled = memory[max(1, minutes // 10) :] or memory
    return {
        "minutes": minutes,
        "words": words,
        "first_minute_ms_a_chunk": 1000 * per_minute[0],
        "last_minute_ms_a_chunk": 1000 * per_minute[-1],
        "memory_growth_mb": settled[-1] - settled[0],
        "step": percentiles(busiest),
        "chunk_ms": chunk / 16,
    }


def load(recognizer: rdsdk.Recognizer, streams: int, seconds: float) -> dict[str, Any]:
    """``streams`` at once, each from another place of the sound."""
    waveform, chunk = sound(), chunks_of(recognizer)
    listeners = [recognizer.stream(partials=False) for _ in range(streams)]
    count = int(seconds * 16_000 / chunk)
    steps = []
    begun = time.perf_counter()
    for turn in range(count):
        for number, stream in enumerate(listeners):
            at = (number * 7 * chunk + turn * chunk) % (len(waveform) - chunk)
            before = time.perf_counter()
            stream.feed(waveform[at : at + chunk])
            steps.append(time.perf_counter() - before)
    took = time.perf_counter() - begun
    heard = streams * count * chunk / 16_000
    return {"streams": streams, "times_real_time": heard / took, **percentiles(steps)}


def beside_offline(recognizer: rdsdk.Recognizer, rounds: int = 5) -> dict[str, float]:
    """Seconds of work for a second of sound, streamed chunk by chunk and offline, turn about."""
    waveform, chunk = sound(), chunks_of(recognizer)
    seconds = len(waveform) / 16_000
    streamed, offline = [], []
    for _ in range(rounds):
        stream = recognizer.stream()
        begun = time.perf_counter()
        for at in range(0, len(waveform), chunk):
            stream.feed(waveform[at : at + chunk])
        stream.finish()
        streamed.append((time.perf_counter() - begun) / seconds)
        begun = time.perf_counter()
        list(recognizer.transcribe((waveform, 16_000)))
        offline.append((time.perf_counter() - begun) / seconds)
    return {
        "streamed_real_time_factor": float(np.median(streamed)),
        "offline_real_time_factor": float(np.median(offline)),
    }


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """The figures as Markdown tables."""
    soaked, price = figures["soak"], figures["beside_offline"]
    yield f"{figures['model']}, chunks of {soaked['chunk_ms']:.0f} ms, one thread\n"
    yield "| streams at once | times real time in all | step p50 ms | p95 | p99 |"
    yield "|---|---|---|---|---|"
    for row in figures["load"]:
        yield (
            f"| {row['streams']} | {row['times_real_time']:.0f} | {row['p50_ms']:.1f} "
            f"| {row['p95_ms']:.1f} | {row['p99_ms']:.1f} |"
        )
    growth = f"{soaked['memory_growth_mb']:+.1f} MB"
    yield (
        f"\n{soaked['minutes']} minutes through one stream: {soaked['words']} words, memory "
        f"{growth} after the first tenth, {soaked['first_minute_ms_a_chunk']:.2f} ms a chunk in "
        f"the first minute and {soaked['last_minute_ms_a_chunk']:.2f} ms in the last.\n"
        f"Streamed {price['streamed_real_time_factor']:.4f} of real time, offline "
        f"{price['offline_real_time_factor']:.4f}: "
        f"{price['streamed_real_time_factor'] / price['offline_real_time_factor']:.2f} times."
    )


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=rdsdk.DEFAULT_MODEL, help="a .pte or a bundled name")
    parser.add_argument("--minutes", type=int, default=60, help="of sound in the soak")
    parser.add_argument("--seconds", type=float, default=20.0, help="of sound for each stream")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    recognizer = rdsdk.load(options.model, threads=1)
    figures = {
        "model": recognizer.card.name,
        "beside_offline": beside_offline(recognizer),
        "load": [load(recognizer, n, options.seconds) for n in STREAMS],
        "soak": soak(recognizer, max(1, options.minutes)),
    }
    print("\n".join(lines(figures)))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
