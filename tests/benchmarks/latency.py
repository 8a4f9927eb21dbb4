"""How late and how right words come, by chunk size: the same weights, streamed live.

``python -m tests.benchmarks.latency data/digits/dev.jsonl --negative data/digits/dev_negative.jsonl
[--checkpoint FOLDER] [--chunks 4 8 16 32 64 full] [--json FILE] [--figure FILE.png]``. Each chunk
size is exported to int8 on the spot. Every recording of the aligned manifest, between silences of
some length, is fed in blocks of 20 ms on a clock that counts the sound and adds the time that each
call really took. One thread. Times are counted from the end of a word as the alignment has it, over
the words that were recognised:

- partial: until a partial or final segment first shows the word;
- promised: until it stands in a partial segment's ``stable`` text or in a final segment;
- final: until the final segment comes that holds it, for its last word;
- taken back: words whose place later showed something else before the final segment;
- as offline: recordings whose text is that of the whole recording at once, with the chunk mask.

A full-context model says nothing before the end: its sound ends with the silence that makes the
others' segments final.

``... dev.jsonl --model english [MODEL.pte ...]`` measures finished models instead. Where a manifest
has texts and no alignments, PocketSphinx aligns them first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from lhotse.cut import Cut
from rich.console import Console
from rich.progress import track

import rdsdk
import rdsdk.pretrained
from mobile_export.executorch import export
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.data.manifest import read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.models import checkpoint
from rdsdk.runtime.executorch import set_threads
from rdsdk.runtime.percentiles import percentiles
from tests.benchmarks.spoken import BLOCK, Spoken, aligned_words, surrounded
from tests.benchmarks.streaming import beside_offline, load

TRAIL_SECONDS = 2.6
"""Longer than a chunk and the trailing silence that ends a segment."""
CHUNKS = ("4", "8", "16", "32", "64", "full")


@dataclass(frozen=True)
class Event:
    """A segment and the moment it came, on the clock of the sound."""

    seconds: float
    segment: rdsdk.Segment


@dataclass
class Heard:
    """What all recordings gave at one chunk size."""

    errors: int = 0
    words: int = 0
    partial: list[float] = field(default_factory=list)
    promised: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    start_error: list[float] = field(default_factory=list)
    taken_back: int = 0


def live(recognizer: rdsdk.Recognizer, waveform: np.ndarray) -> list[Event]:
    """Feed a waveform as a microphone would; what comes, and when."""
    events, free = [], 0.0
    stream = recognizer.stream()
    for start in range(0, len(waveform) + 1, BLOCK):
        block = waveform[start : start + BLOCK]
        begun = time.perf_counter()
        segments = stream.feed(block) if len(block) == BLOCK else stream.finish()
        # Work begins when the block is there and the one before is done.
        free = max((start + len(block)) / SAMPLE_RATE, free) + time.perf_counter() - begun
        events += [Event(free, segment) for segment in segments]
    return events


def score(heard: Heard, reference: Sequence[Spoken], events: Sequence[Event]) -> None:
    """Count one recording's errors and delays."""
    words: list[tuple[rdsdk.Word, int, int]] = []  # the word, its event, its place in the segment
    for number, event in enumerate(events):
        if event.segment.is_final:
            words += [(w, number, place) for place, w in enumerate(event.segment.words)]
    said = jiwer.process_words(
        " ".join(w.text for w in reference), " ".join(w.text for w, _, _ in words)
    )
    heard.errors += said.substitutions + said.insertions + said.deletions
    heard.words += len(reference)
    for part in said.alignments[0]:
        if part.type != "equal":
            continue
        for offset in range(part.ref_end_idx - part.ref_start_idx):
            spoken = reference[part.ref_start_idx + offset]
            word, number, place = words[part.hyp_start_idx + offset]
            _score_word(heard, spoken, word, number, place, events)


def _score_word(
    heard: Heard,
    spoken: Spoken,
    word: rdsdk.Word,
    number: int,
    place: int,
    events: Sequence[Event],
) -> None:
    first = number
    while first > 0 and not events[first - 1].segment.is_final:
        first -= 1
    shown = [
        event.segment.words[place].text if place < len(event.segment.words) else None
        for event in events[first : number + 1]
    ]
    appeared = shown.index(word.text)
    heard.partial.append(events[first + appeared].seconds - spoken.end)
    heard.promised.append(
        next(
            event.seconds
            for event in events[first : number + 1]
            if event.segment.is_final or len(event.segment.stable.split()) > place
        )
        - spoken.end
    )
    heard.taken_back += any(text != word.text for text in shown[appeared:])
    heard.start_error.append(word.start - spoken.start)
    if place == len(events[number].segment.words) - 1:
        heard.final.append(events[number].seconds - spoken.end)


def measure(
    model: Path | str, aligned: Sequence[tuple[Cut, list[Spoken]]], negative: Sequence[Cut]
) -> dict[str, Any]:
    """All figures of one artefact or bundled model."""
    recognizer, path = rdsdk.load(model, threads=1), Path(model)
    context = recognizer.card.context
    trail = TRAIL_SECONDS if context else rdsdk.EndpointRules().trailing_silence_seconds
    heard, as_offline, console = Heard(), 0, Console(stderr=True)
    for number, (cut, said) in enumerate(track(aligned, f"{path.stem}: words", console=console)):
        waveform, words = surrounded(load_waveform(cut), said, number, trail)
        events = live(recognizer, waveform)
        score(heard, words, events)
        offline = [segment.text for segment in recognizer.transcribe((waveform, SAMPLE_RATE))]
        as_offline += offline == [e.segment.text for e in events if e.segment.is_final]
    false = 0
    for cut in track(negative, f"{path.stem}: no words", console=console):
        stream = recognizer.stream(partials=False)
        false += bool(stream.feed(load_waveform(cut)) + stream.finish())
    row: dict[str, Any] = {
        "model": path.stem,
        "chunk_ms": None if context is None else 20 * context.chunk_frames,
        "word_error_rate": heard.errors / max(1, heard.words),
        "false_recordings": false,
        "negative_recordings": len(negative),
        "recordings": len(aligned),
        "recordings_as_offline": as_offline,
        "words_recognised": len(heard.partial),
        "partial": percentiles(heard.partial),
        "promised": percentiles(heard.promised),
        "final": percentiles(heard.final),
        "taken_back": heard.taken_back / max(1, len(heard.partial)),
        "start_error": percentiles([abs(error) for error in heard.start_error]),
    }
    if context is not None:
        row |= beside_offline(recognizer, rounds=3)
        row["step_p99_ms"] = load(recognizer, streams=1, seconds=20.0)["p99_ms"]
    return row


def artefact(source: checkpoint.Checkpoint, chunk: str, folder: Path) -> Path:
    """The checkpoint as an int8 artefact with one chunk size, made once."""
    path = folder / f"chunk-{chunk}.pte"
    if not path.is_file():
        print(f"exporting with a chunk of {chunk} frames ...", file=sys.stderr, flush=True)
        if chunk == "full":
            student = source.student.copy(replace(source.student.config, context=None))
            made = replace(source, student=student)
        else:
            made = checkpoint.in_context(source, int(chunk), None)
        export(made, path, "int8")
    return path


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| model | chunk | word errors | false recordings | partial p50 / p95 ms "
        "| promised p50 / p95 ms "
        "| final p50 / p95 ms | taken back | as offline | start off by p50 ms | step p99 ms "
        "| streamed / offline cost |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        chunk = "full" if row["chunk_ms"] is None else f"{row['chunk_ms']} ms"
        cost = step = "-"
        if row["chunk_ms"] is not None:
            step = f"{row['step_p99_ms']:.1f}"
            streamed, offline = row["streamed_real_time_factor"], row["offline_real_time_factor"]
            cost = f"{streamed:.4f} / {offline:.4f} = {streamed / offline:.2f}"
        lines.append(
            f"| {row['model']} | {chunk} | {row['word_error_rate']:.1%} "
            f"| {row['false_recordings']} of {row['negative_recordings']} "
            f"| {row['partial']['p50_ms']:.0f} / {row['partial']['p95_ms']:.0f} "
            f"| {row['promised']['p50_ms']:.0f} / {row['promised']['p95_ms']:.0f} "
            f"| {row['final']['p50_ms']:.0f} / {row['final']['p95_ms']:.0f} "
            f"| {row['taken_back']:.1%} "
            f"| {row['recordings_as_offline']} of {row['recordings']} "
            f"| {row['start_error']['p50_ms']:.0f} | {step} | {cost} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Word errors against delay, and invented words against delay, a point for each chunk size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    chunked = [row for row in rows if row["chunk_ms"] is not None]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    false = [100 * r["false_recordings"] / max(1, r["negative_recordings"]) for r in chunked]
    for axis, values, title in (
        (axes[0], [100 * row["word_error_rate"] for row in chunked], "word error rate, %"),
        (axes[1], false, "recordings without digits\nthat get one, %"),
    ):
        for kind, mark in (("partial", "o-"), ("final", "s--")):
            delays = [row[kind]["p50_ms"] for row in chunked]
            axis.plot(delays, values, mark, label=f"{kind} text")
            if kind == "final":
                for row, delay, value in zip(chunked, delays, values, strict=True):
                    axis.annotate(
                        f"{row['chunk_ms']} ms",
                        (delay, value),
                        xytext=(5, 5),
                        textcoords="offset points",
                        fontsize=8,
                    )
        axis.set(xlabel="median delay after the word's end, ms", ylabel=title, ylim=(0, None))
        axis.margins(x=0.16)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle("The same weights in chunks of several sizes")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, nargs="+", help="with texts or aligned words")
    parser.add_argument("--negative", type=Path, nargs="*", default=[], help="without any words")
    bundled = Path(rdsdk.pretrained.__path__[0]) / "digits"
    parser.add_argument("--checkpoint", type=Path, default=bundled)
    parser.add_argument("--chunks", nargs="+", default=list(CHUNKS), help="frames, or full")
    parser.add_argument("--model", nargs="+", help="measure these as they are, by name or path")
    parser.add_argument("--folder", type=Path, help="keep the exported files here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--figure", type=Path, help="also draw them (svg, png)")
    options = parser.parse_args()
    cuts = list(read_cuts([str(m) for m in options.manifest]))
    aligned = list(aligned_words(cuts))
    print(f"{len(aligned)} of {len(cuts)} recordings are aligned", file=sys.stderr)
    if not aligned:
        return 2
    negative = list(read_cuts([str(m) for m in options.negative])) if options.negative else []
    set_threads(1)  # before the proof of the first export runs a program
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        source = None if options.model else checkpoint.load(options.checkpoint)
        for chosen in options.model or options.chunks:
            model = chosen if source is None else artefact(source, chosen, folder)
            rows.append(measure(model, aligned, negative))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
