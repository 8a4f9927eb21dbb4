"""Lines of text in many synthetic voices: ``rdsdk prepare synthetic --help``.

What synthesisers say is no substitute for people, but they say words that no recording has. The
corpus is a manifest like any other; its recordings are aligned and learnt from beside real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import Progress

from rdsdk.data.digit_sources import GENERATED
from rdsdk.data.growing_rows import rows_so_far
from rdsdk.data.ngram import sentences
from rdsdk.data.synthetic_voices import PROGRAMS, Voice, draw_voice, require_programs, speak
from rdsdk.data.telling import tell_error
from rdsdk.data.word_clips import SAMPLE_RATE
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.outputs import require_folder

MANIFEST = "synthetic.jsonl"
FEWEST_WORDS, MOST_WORDS = 4, 30
_MOST_FAILURES = 20  # one after the other


def choose(
    lines: Sequence[str], programs: Sequence[str], seed: int, index: int
) -> tuple[Voice, str]:
    """The voice and the line of one recording: the same for the same seed and index."""
    rng = np.random.default_rng([seed, index])
    line = lines[int(rng.integers(len(lines)))]
    while (voice := draw_voice(rng)).program not in programs:
        pass
    return voice, line


def make_corpus(
    texts: Sequence[Path],
    out: Path,
    hours: float,
    programs: Sequence[str] = tuple(PROGRAMS),
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[int, float]:
    """Write ``out/synthetic.jsonl`` and FLAC recordings beside it; how many, and their seconds.

    What is there already is kept, and gone on from.

    Args:
        texts: files with a sentence a line; those of 4 to 30 words are said.
        hours: about how much in all.
        programs: which of the synthesisers speak.

    Raises:
        ConfigError: a number or a program is not allowed, or a program is not installed.
        DataError: there is no text, or the synthesisers fail over and over.
    """
    if workers < 1 or seed < 0:
        raise ConfigError(f"got {workers} workers and seed {seed}; expected at least 1 and 0")
    require_folder(out)
    unknown = sorted(set(programs) - PROGRAMS.keys())
    if unknown or not programs or not hours > 0:
        raise ConfigError(
            f"got programs {list(programs)} and {hours} hours; expected some of {list(PROGRAMS)} "
            "and more than 0 hours"
        )
    require_programs(programs)
    lines = [
        line
        for text in texts
        for line in sentences(text)
        if FEWEST_WORDS <= len(line.split()) <= MOST_WORDS
    ]
    if not lines:
        raise DataError(
            f"no line of {', '.join(map(str, texts))} has {FEWEST_WORDS} to {MOST_WORDS} words"
        )
    (out / "audio").mkdir(parents=True, exist_ok=True)
    made = rows_so_far(out / MANIFEST)
    seconds = sum(float(row["seconds"]) for row in made)
    begin = 1 + max((int(row["id"].rpartition("-")[2]) for row in made), default=-1)
    count, failures = len(made), 0
    progress = progress or Progress(disable=True)
    task = progress.add_task("speak", total=round(hours * 3600), completed=round(seconds))
    with (out / MANIFEST).open("a", encoding="utf-8") as manifest:
        if seconds >= hours * 3600:
            return count, seconds
        for row in _spoken(lines, out, programs, seed, begin, workers):
            failures = failures + 1 if row is None else 0
            if failures > _MOST_FAILURES:
                raise DataError(
                    f"{failures} lines in a row could not be spoken; is a voice missing?"
                )
            if row is None:
                continue
            manifest.write(json.dumps(row) + "\n")
            count, seconds = count + 1, seconds + row["seconds"]
            progress.update(task, completed=round(seconds))
            if seconds >= hours * 3600:
                break
    return count, seconds


def _spoken(
    lines: Sequence[str], out: Path, programs: Sequence[str], seed: int, begin: int, workers: int
) -> Iterator[dict[str, Any] | None]:
    """Rows from recording ``begin`` on, without end; None where a synthesiser failed."""

    def say(index: int) -> dict[str, Any] | None:
        voice, line = choose(lines, programs, seed, index)
        try:
            waveform = speak(voice, line)
        except DataError:
            return None
        name = f"synthetic-{seed}-{index}"
        soundfile.write(out / "audio" / f"{name}.flac", waveform, SAMPLE_RATE, subtype="PCM_16")
        return {
            "id": name,
            "audio": f"audio/{name}.flac",
            "seconds": round(len(waveform) / SAMPLE_RATE, 4),
            "text": line.upper(),
            "speaker": voice.speaker,
            "source": voice.program,
            "licence": GENERATED,
        }

    with ThreadPoolExecutor(workers) as pool:
        while True:
            yield from pool.map(say, range(begin, begin + 8 * workers))
            begin += 8 * workers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare synthetic", description="Speak lines of text in many synthetic voices."
    )
    add = made.add_argument
    add("text", type=Path, nargs="+", help="a sentence a line; plain, .gz, .bz2 or .xz")
    add("--out", type=Path, required=True, help="folder to write audio and the manifest to")
    add("--hours", type=float, required=True, help="about how much in all")
    add("--programs", nargs="+", default=list(PROGRAMS), help="synthesisers (%(default)s)")
    add("--seed", type=int, default=0, help="of every random choice (%(default)s)")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="threads (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the corpus is made, 2 when an input is missing."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    try:
        with Progress(console=console) as progress:
            count, seconds = make_corpus(
                options.text,
                options.out,
                options.hours,
                options.programs,
                options.seed,
                options.workers,
                progress,
            )
    except RdsdkError as error:
        tell_error(error)
        return 2
    console.print(f"{options.out / MANIFEST}: {count} recordings, {seconds / 3600:.2f} hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
