"""``rdsdk bench``: how fast a model is on this machine, and how much memory it takes.

For each number of threads, in a process of its own: the seconds to load and to the first result,
the real-time factor (processing time over audio time) of a whole recording, the milliseconds of one
chunk when streaming, and the peak of resident memory. With a recording also what its live text
takes, the search for words and its language models included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from rdsdk.commands.console import complain
from rdsdk.errors import ConfigError
from rdsdk.outputs import require_file
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.live_text import LiveText, beginning
from rdsdk.runtime.machine import machine, usable_cores
from rdsdk.runtime.measurement import Measurement, check_plan, measure_apart
from rdsdk.runtime.recognizer import model_path

_COLUMNS = (
    "threads",
    "load s",
    "first result s",
    "real-time factor",
    "fastest to slowest pass",
    "streamed",
    "step p50 / p95 / p99 ms",
    "peak memory MB",
    "of it the model's",
)
_TEXT_COLUMNS = (
    "threads",
    "prepare s",
    "live text, real-time factor",
    "fastest to slowest pass",
    "block p50 / p95 / p99 ms",
    "at the end ms",
    "peak memory MB",
    "words",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdsdk bench``."""
    parser.add_argument("model", metavar="MODEL", help="a .pte file or a bundled name")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of threads to measure (default: 1, 2, 4 ... and all cores)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="of sound in a pass (default: %(default)g)",
    )
    parser.add_argument(
        "--passes",
        type=int,
        default=5,
        help="over the sound; the table has their median (default: %(default)s)",
    )
    parser.add_argument(
        "--recording",
        type=Path,
        metavar="AUDIO",
        help="also measure live text: its first --seconds, block by block, with the model's search",
    )
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="also write the figures here")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table and write the JSON; nothing is written unless all was measured."""
    path = model_path(arguments.model)
    threads = arguments.threads or _default_threads(usable_cores())
    output: Path | None = arguments.json
    # All that can be wrong is said before minutes of work, not after them.
    for number in threads:
        check_plan(number, arguments.seconds, arguments.passes)
    if output is not None:
        require_file(output)
    if arguments.recording is not None:
        beginning(arguments.recording, arguments.seconds)
    size_bytes = len(read_artefact(path))
    where = machine()
    if max(threads) > where["usable_cores"]:
        complain(f"more threads than the {where['usable_cores']} cores to be used", "warning")
    runs = _measured(path, threads, arguments.seconds, arguments.passes, arguments.recording)
    value: dict[str, Any] = {
        "model": str(path),
        "size_bytes": size_bytes,
        "sound_seconds": arguments.seconds,
        "passes": arguments.passes,
        "recording": None if arguments.recording is None else str(arguments.recording),
        "machine": where,
        "runs": [asdict(run) for run in runs],
    }
    _show(path, size_bytes, where, runs)
    if output is not None:
        try:
            output.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    return 0


def _default_threads(cores: int) -> list[int]:
    doubled = [2**power for power in range(cores.bit_length())]
    return sorted({*doubled, cores})


def _measured(
    path: Path, threads: Sequence[int], seconds: float, passes: int, recording: Path | None
) -> list[Measurement]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = len(threads) * passes * (1 if recording is None else 2)
        task = progress.add_task("", total=total)
        runs = []
        for place, number in enumerate(threads):
            progress.update(task, description=f"{number} thread{'s'[: number > 1]}: loading")

            def show(done: int, of: int, place: int = place, number: int = number) -> None:
                progress.update(
                    task,
                    completed=place * of + done,
                    description=f"{number} thread{'s'[: number > 1]}: pass {done} of {of}",
                )

            runs.append(measure_apart(path, number, seconds, passes, show, recording))
    return runs


def _show(path: Path, size_bytes: int, where: dict[str, Any], runs: Sequence[Measurement]) -> None:
    print(f"{path.name}: {runs[0].name}, {runs[0].precision}, {size_bytes / 1e6:.1f} MB")
    print(f"{where['processor']}, {where['usable_cores']} cores, {where['system']}")
    if steps := runs[0].steps:
        print(f"a step is a chunk of {steps.chunk_ms:g} ms")
    print()
    _print_table([_COLUMNS, *map(_row, runs)])
    texts = [(run.threads, run.text) for run in runs if run.text is not None]
    if texts:
        first = texts[0][1]
        print(
            f"\n{first.sound_seconds:.1f} s of speech, live, in blocks of {first.block_ms:g} ms\n"
        )
        _print_table([_TEXT_COLUMNS, *(_text_row(threads, text) for threads, text in texts)])


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            print(f"|{'|'.join('-' * (width + 1) + ':' for width in widths)}|")


def _text_row(threads: int, text: LiveText) -> tuple[str, ...]:
    return (
        str(threads),
        f"{text.prepare_seconds:.2f}",
        f"{text.real_time_factor:.4f}",
        f"{text.fastest_pass:.4f} to {text.slowest_pass:.4f}",
        f"{text.p50_ms:.1f} / {text.p95_ms:.1f} / {text.p99_ms:.1f}",
        f"{text.end_ms:.1f}",
        _number(text.peak_mb, 0),
        str(text.words),
    )


def _row(run: Measurement) -> tuple[str, ...]:
    steps = run.steps
    grown = None
    if run.peak_mb is not None and run.before_load_mb is not None:
        grown = run.peak_mb - run.before_load_mb
    return (
        str(run.threads),
        f"{run.load_seconds:.2f}",
        f"{run.first_result_seconds:.2f}",
        f"{run.real_time_factor:.4f}",
        f"{run.fastest_pass:.4f} to {run.slowest_pass:.4f}",
        _number(run.streamed_real_time_factor, 4),
        f"{steps.p50_ms:.1f} / {steps.p95_ms:.1f} / {steps.p99_ms:.1f}" if steps else "-",
        _number(run.peak_mb, 0),
        _number(grown, 0),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
