"""How fast and how large an artefact is on this machine, one number of threads a process.

ExecuTorch's threads are set once in a process, and its peak memory is that of everything it ever
did: so ``measure_apart`` runs ``measure`` in a process of its own, this module as a program.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rdsdk.errors
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.errors import ConfigError, ModelError, RdsdkError
from rdsdk.runtime import executorch
from rdsdk.runtime.live_text import LiveText, beginning, measure_text
from rdsdk.runtime.machine import peak_resident_mb, resident_mb
from rdsdk.runtime.percentiles import percentiles
from rdsdk.runtime.program import Program
from rdsdk.runtime.stream import FrameSource, frame_source

OnPass = Callable[[int, int], None]
"""Called after each pass over the sound with how many are done, and of how many."""


@dataclass(frozen=True)
class Steps:
    """Milliseconds that a chunk takes, streamed one by one, over all passes."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int
    chunk_ms: float


@dataclass(frozen=True)
class Measurement:
    """What one process measured. A real-time factor is processing time over audio time.

    Args:
        name, precision: as the model's card says.
        threads: of ExecuTorch.
        import_seconds: until torch and ExecuTorch's binding are imported.
        load_seconds: from the file to methods that can be called.
        first_result_seconds: from the start of loading to the first frames: of the first chunk if
            the model streams, of the whole sound otherwise. Without ``import_seconds``.
        real_time_factor: offline, the median pass.
        fastest_pass, slowest_pass: real-time factors; far apart, the machine was not quiet.
        streamed_real_time_factor: chunk by chunk, the median pass; None for a full-context model.
        steps: of a chunk; None for a full-context model.
        before_load_mb: resident memory before the model was loaded: Python, torch, ExecuTorch.
        peak_mb: the most resident memory; both None where the system does not tell.
        text: what live text took, if a recording was given to hear.
    """

    name: str
    precision: str
    threads: int
    import_seconds: float
    load_seconds: float
    first_result_seconds: float
    real_time_factor: float
    fastest_pass: float
    slowest_pass: float
    streamed_real_time_factor: float | None
    steps: Steps | None
    before_load_mb: float | None
    peak_mb: float | None
    text: LiveText | None = None


def probe_waveform(seconds: float) -> np.ndarray:
    """Noise (S,) that rises and falls like syllables: sound enough to measure time with."""
    rng = np.random.default_rng(0)
    samples = round(seconds * SAMPLE_RATE)
    syllables = np.sin(2 * np.pi * 2.0 * np.arange(samples) / SAMPLE_RATE) ** 2
    return (0.1 * syllables * rng.normal(size=samples)).astype(np.float32)


def measure(
    path: Path,
    threads: int,
    seconds: float,
    passes: int,
    on_pass: OnPass = lambda *_: None,
    recording: Path | None = None,
) -> Measurement:
    """Load an artefact and run it, in this process, which must not have run one before.

    Args:
        path: a ``.pte``.
        threads: for ExecuTorch.
        seconds: of sound in a pass.
        passes: over the sound, offline and again chunk by chunk; the first load warms up both.
        recording: whose first ``seconds`` are then heard as often, live, for their text.

    Raises:
        ModelError: the artefact cannot be loaded or run, or gives no text of a recording.
        AudioError: the recording cannot be read.
        ConfigError: a number is out of range, or this process has run a program before.
    """
    check_plan(threads, seconds, passes)
    waveform = probe_waveform(seconds)
    spoken = None if recording is None else beginning(recording, seconds)
    begun = time.perf_counter()
    executorch.binding()
    imported = time.perf_counter()
    before = resident_mb()
    program = Program(path, threads)
    loaded = time.perf_counter()
    if spoken is not None and program.card.task != "ctc":
        raise ModelError(
            f"{path} gives features and no text, so live text cannot be measured; leave the "
            "recording out"
        )
    chunk: int | None = None
    ahead = len(waveform)
    if program.card.context is not None:
        chunk = program.card.chunk_samples
        ahead = chunk + program.card.overlap_samples
        if len(waveform) < 2 * ahead:
            raise ConfigError(
                f"seconds is {seconds:g}, expected at least {2 * ahead / SAMPLE_RATE:.2f}: {path} "
                f"hears chunks of {chunk / SAMPLE_RATE:g} s"
            )
    frames = frame_source(program)
    _take(frames.feed(waveform[:ahead]))
    if chunk is None:
        _take(frames.finish())
    first = time.perf_counter()
    _offline(frames, waveform)  # its calls are longer than a chunk: warm those up too
    offline: list[float] = []
    streamed: list[float] = []
    steps: list[float] = []
    all_passes = passes if spoken is None else 2 * passes
    for number in range(passes):
        offline.append(_offline(frames, waveform))
        if chunk is not None:
            took, end = _chunk_by_chunk(frames, waveform, ahead, chunk)
            steps += took
            streamed.append(sum(took) + end)
        on_pass(number + 1, all_passes)
    peak = peak_resident_mb()
    text = None
    if spoken is not None:

        def heard(number: int) -> None:
            on_pass(passes + number, all_passes)

        text = measure_text(program, spoken, passes, heard, peak_resident_mb)
    return Measurement(
        name=program.card.name,
        precision=program.card.precision,
        threads=threads,
        import_seconds=imported - begun,
        load_seconds=loaded - imported,
        first_result_seconds=first - imported,
        real_time_factor=statistics.median(offline) / seconds,
        fastest_pass=min(offline) / seconds,
        slowest_pass=max(offline) / seconds,
        streamed_real_time_factor=statistics.median(streamed) / seconds if streamed else None,
        steps=Steps(**percentiles(steps), count=len(steps), chunk_ms=1000 * chunk / SAMPLE_RATE)
        if chunk is not None
        else None,
        before_load_mb=before,
        peak_mb=peak,
        text=text,
    )


def check_plan(threads: int, seconds: float, passes: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        ConfigError: a number is out of range.
    """
    if threads < 1:
        raise ConfigError(f"threads is {threads}, expected at least 1")
    if not 1.0 <= seconds <= 3600.0:
        raise ConfigError(f"seconds is {seconds:g}, expected 1 to 3600 seconds of sound")
    if passes < 1:
        raise ConfigError(f"passes is {passes}, expected at least 1")


def measure_apart(
    path: Path,
    threads: int,
    seconds: float,
    passes: int,
    on_pass: OnPass = lambda *_: None,
    recording: Path | None = None,
) -> Measurement:
    """``measure`` in a new process.

    Raises:
        ModelError, AudioError, ConfigError: as ``measure``; ModelError too when the process was
            killed, for want of memory perhaps.
    """
    check_plan(threads, seconds, passes)
    plan = {
        "path": str(path),
        "threads": threads,
        "seconds": seconds,
        "passes": passes,
        "recording": None if recording is None else str(recording),
    }
    # A file: nobody reads what it complains of while it works, and a full pipe would stop it.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(plan)],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == "pass":
                    on_pass(*value)
                elif kind == "error":
                    raise getattr(rdsdk.errors, value[0])(value[1])
                else:
                    steps = None if value["steps"] is None else Steps(**value["steps"])
                    text = None if value["text"] is None else LiveText(**value["text"])
                    return Measurement(**value | {"steps": steps, "text": text})
            code = process.wait()
        finally:
            process.kill()  # nothing when it has ended
        complaints.seek(0)
        last = (complaints.read().strip().splitlines() or ["it said nothing"])[-1]
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise ModelError(f"the process that measures {path} {ended}: {last}")


def _take(outputs: Iterable[object]) -> float:
    """Let all the work be done; the seconds it took."""
    begun = time.perf_counter()
    for _ in outputs:
        pass
    return time.perf_counter() - begun


def _offline(frames: FrameSource, waveform: np.ndarray) -> float:
    frames.reset()
    return _take(frames.feed(waveform)) + _take(frames.finish())


def _chunk_by_chunk(
    frames: FrameSource, waveform: np.ndarray, ahead: int, chunk: int
) -> tuple[list[float], float]:
    """The seconds of each chunk, and of what remains at the end."""
    frames.reset()
    took, at = [], 0
    # The first chunk needs some samples more than a chunk, which every later one then has.
    while (end := at + (chunk if at else ahead)) <= len(waveform):
        took.append(_take(frames.feed(waveform[at:end])))
        at = end
    return took, _take(frames.feed(waveform[at:])) + _take(frames.finish())


def _main(plan: dict[str, Any]) -> None:
    def say(kind: str, value: Any) -> None:
        print(json.dumps([kind, value]), flush=True)

    try:
        plan["path"] = Path(plan["path"])
        if plan["recording"] is not None:
            plan["recording"] = Path(plan["recording"])
        say("measurement", asdict(measure(**plan, on_pass=lambda *done: say("pass", done))))
    except RdsdkError as error:
        say("error", [type(error).__name__, str(error)])


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
