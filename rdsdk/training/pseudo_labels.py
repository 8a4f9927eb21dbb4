"""Texts for recordings that have none: what two recognisers heard alike.

Two recognisers that were built apart, PocketSphinx with the models of its package and a model of
ours, seldom make the same mistake. Of each recording those stretches are kept in which both heard
the same words one after the other, as recordings of their own, cut where PocketSphinx has the edges
of words (agreement between systems: F. Wessel and H. Ney 2005). What comes out is a manifest like
any other, with more speakers in it. ``rdsdk prepare pseudo --help``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse.cut import Cut
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.data import pocketsphinx
from rdsdk.data.growing_rows import rows_so_far
from rdsdk.data.manifest import read_cuts
from rdsdk.data.telling import tell_error
from rdsdk.data.waveform import load_waveform
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.evaluation.transcribers import WordTranscriber, joined, load_word_transcriber

HEARD, MANIFEST = "heard.jsonl", "pseudo.jsonl"
FEWEST_WORDS, FEWEST_LETTERS = 2, 8
"""In a stretch: "of the" is heard alike by chance."""
MARGIN_SECONDS = 0.02


class Heard(NamedTuple):
    """A word, and where it starts and ends, in seconds."""

    word: str
    start: float
    end: float


def agreed(
    words: Sequence[Heard],
    others: Sequence[str],
    fewest_words: int = FEWEST_WORDS,
    fewest_letters: int = FEWEST_LETTERS,
) -> list[tuple[Heard, ...]]:
    """The runs of ``words`` that are among ``others``, in the same order, without a gap in either.

    Runs of fewer words or letters are left out.
    """
    matcher = SequenceMatcher(None, [word for word, _, _ in words], list(others), autojunk=False)
    runs = [tuple(words[a : a + size]) for a, _, size in matcher.get_matching_blocks()]
    return [
        run
        for run in runs
        if len(run) >= fewest_words and sum(len(word) for word, _, _ in run) >= fewest_letters
    ]


class Listener:
    """PocketSphinx with its own models: words and where they are.

    Raises:
        ConfigError: PocketSphinx is not installed.
    """

    def __init__(self) -> None:
        pocketsphinx.require()  # told here, not at the first recording

    def words(self, waveform: NDArray[np.float32]) -> list[Heard]:
        """What is said in (S,) samples at 16 kHz, in capitals."""
        # A fresh one (half a second): it adapts, and what it hears would depend on what it heard.
        decoder = pocketsphinx.new_decoder()
        return [Heard(*found) for found in pocketsphinx.heard_words(decoder, waveform)]


def hear(
    model: str, cuts: Mapping[str, Cut], out: Path, workers: int, progress: Progress
) -> list[dict[str, Any]]:
    """What both heard in each recording, also kept in ``out/heard.jsonl``, which is gone on from.

    Raises:
        ConfigError: PocketSphinx is not installed, or ``heard.jsonl`` is another model's.
        DataError: a recording cannot be read.
        ModelError, CheckpointError: the model cannot be loaded.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = {row["id"]: row for row in _kept(out / HEARD)}
    strangers = {row["model"] for row in done.values()} - {model}
    if strangers:
        raise ConfigError(
            f"{out / HEARD} is what {', '.join(sorted(strangers))} heard, not {model}; give "
            "another --out"
        )
    left = [cut for name, cut in cuts.items() if name not in done]
    task = progress.add_task("listen", total=len(cuts), completed=len(cuts) - len(left))
    with (out / HEARD).open("a", encoding="utf-8") as file:
        for row in _listened(model, left, workers):
            file.write(json.dumps(row) + "\n")
            file.flush()
            done[row["id"]] = row
            progress.advance(task)
    return [done[name] for name in cuts]


def cut_out(
    rows: Sequence[dict[str, Any]],
    cuts: Mapping[str, Cut],
    out: Path,
    fewest_words: int = FEWEST_WORDS,
    fewest_letters: int = FEWEST_LETTERS,
) -> tuple[int, float]:
    """Write ``out/pseudo.jsonl`` and the agreed stretches beside it; how many, and their seconds.

    Raises:
        DataError: a recording cannot be read, or nothing was heard alike.
    """
    (out / "audio").mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    total = 0.0
    for row in rows:
        words = [Heard(*word) for word in row["words"]]
        runs = agreed(words, row["other"].split(), fewest_words, fewest_letters)
        waveform = load_waveform(cuts[row["id"]]) if runs else np.empty(0, np.float32)
        for run in runs:
            first = max(0, round((run[0].start - MARGIN_SECONDS) * SAMPLE_RATE))
            piece = waveform[first : round((run[-1].end + MARGIN_SECONDS) * SAMPLE_RATE)]
            name = f"{row['id']}-{first * 1000 // SAMPLE_RATE}ms"
            soundfile.write(out / "audio" / f"{name}.flac", piece, SAMPLE_RATE, subtype="PCM_16")
            total += len(piece) / SAMPLE_RATE
            made.append(
                json.dumps(
                    {
                        "id": name,
                        "audio": f"audio/{name}.flac",
                        "seconds": round(len(piece) / SAMPLE_RATE, 4),
                        "text": " ".join(word for word, _, _ in run),
                        "speaker": row["speaker"],
                        "source": f"pocketsphinx and {row['model']}, of {row['id']}",
                        "licence": (cuts[row["id"]].custom or {}).get("licence", "unknown"),
                    }
                )
            )
    if not made:
        raise DataError(f"in {len(rows)} recordings nothing was heard alike; nothing was made")
    (out / MANIFEST).write_text("\n".join(made) + "\n", encoding="utf-8")
    return len(made), total


_pair: tuple[Listener, WordTranscriber, str] | None = None  # one a process


def _prepare(model: str, threads: int | None) -> None:
    global _pair
    _pair = (Listener(), load_word_transcriber(model, threads), model)


def _both(cut: Cut) -> dict[str, Any]:
    assert _pair is not None
    listener, transcribe, model = _pair
    waveform = load_waveform(cut)
    return {
        "id": cut.id,
        "speaker": cut.supervisions[0].speaker if cut.supervisions else None,
        "model": model,
        "words": listener.words(waveform),
        "other": joined(transcribe(waveform)).upper(),
    }


def _listened(model: str, cuts: Sequence[Cut], workers: int) -> Iterator[dict[str, Any]]:
    # Here too: a pool whose processes cannot start would start new ones for ever. With the threads
    # that this process has: whoever called may have loaded a program, and only the pool needs one.
    _prepare(model, None)
    if workers <= 1 or len(cuts) < 2:
        yield from map(_both, cuts)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _prepare, (model, 1)) as pool:
        yield from pool.imap(_both, cuts)


def _kept(path: Path) -> list[dict[str, Any]]:
    try:
        return [row for row in rows_so_far(path) if row["id"] and row["model"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and start over") from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare pseudo",
        description="Texts for recordings without: stretches that two recognisers heard alike.",
    )
    add = made.add_argument
    add("model", help="a .pte, a bundled name or a checkpoint; the other is PocketSphinx")
    add("recordings", type=Path, nargs="+", help="manifests (JSONL) or LibriSpeech folders")
    add("--out", type=Path, required=True, help="folder to write audio and the manifest to")
    add("--words", type=int, default=FEWEST_WORDS, help="fewest of a stretch (%(default)s)")
    add("--letters", type=int, default=FEWEST_LETTERS, help="fewest of a stretch (%(default)s)")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the corpus is made, 2 when an input is missing."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    try:
        if options.words < 1 or options.letters < 1:
            raise ConfigError("--words and --letters must be at least 1")
        cuts = {cut.id: cut for cut in read_cuts([str(path) for path in options.recordings])}
        with Progress(console=console) as progress:
            rows = hear(options.model, cuts, options.out, options.workers, progress)
        count, seconds = cut_out(rows, cuts, options.out, options.words, options.letters)
    except RdsdkError as error:
        tell_error(error)
        return 2
    console.print(f"{options.out / MANIFEST}: {count} stretches, {seconds / 3600:.2f} hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
