"""Make the training corpus of a spoken-digits recogniser: ``rdsdk prepare digits --help``.

Half of it is digits (recorded alone, cut out of sentences, synthetic), text "SEVEN ZERO TWO"; the
other half is everything else, text "". Both halves go through the same rooms, devices and lines.
One speaker of the recorded digits is kept out of training and makes the development set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rdsdk.data.acoustics import SAMPLE_RATE, active_level_db
from rdsdk.data.digit_clips import KINDS, make_clip
from rdsdk.data.digit_dev import make_dev, make_dev_negative
from rdsdk.data.digit_sources import (
    Bank,
    align,
    cut_digits,
    human_digits,
    read_lines,
    read_noises,
    read_rows,
    synthesise,
)
from rdsdk.data.synthetic_voices import require_programs
from rdsdk.data.telling import tell_error
from rdsdk.data.word_clips import DIGITS
from rdsdk.errors import ConfigError, RdsdkError
from rdsdk.outputs import require_apart


@dataclass(frozen=True)
class Plan:
    """What to make and from what; see the command line for each field.

    Raises:
        ConfigError: an amount is impossible.
    """

    digits: Path
    speech: Path
    noise: Path
    out: Path
    unlabelled: Path | None = None
    dev_speech: tuple[Path, ...] = ()
    exclude: tuple[Path, ...] = ()
    text: Path | None = None
    hours: float = 8.0
    voices: int = 260
    seed: int = 0
    dev_speaker: str = "theo"
    test_fold: str = "5"
    workers: int = 1
    dev_isolated: int = 300
    dev_strings: int = 60

    def __post_init__(self) -> None:
        if self.hours <= 0 or self.voices < 0 or self.workers < 1 or self.seed < 0:
            raise ConfigError(
                "hours must be above 0, voices and seed 0 or more, workers 1 or more; got "
                f"hours={self.hours}, voices={self.voices}, seed={self.seed}, "
                f"workers={self.workers}"
            )


def clip_counts(hours: float, with_synthetic: bool) -> dict[str, int]:
    """How many clips of each kind make about ``hours`` in all, at least one of each."""
    kinds = {
        name: kind
        for name, kind in KINDS.items()
        if with_synthetic or name not in ("spoken-string", "other-phrase")
    }
    whole = sum(kind.share for kind in kinds.values())
    return {
        name: max(1, round(hours * 3600 * kind.share / whole / kind.mean_seconds))
        for name, kind in kinds.items()
    }


def gather(plan: Plan, progress: Progress) -> Bank:
    """Read, align and synthesise everything that clips are made from.

    Raises:
        DataError: an input is missing or holds nothing usable.
        ConfigError: a program or PocketSphinx is missing, or the development speaker is unknown.
    """
    # What can fail at once should, before minutes of aligning.
    if plan.voices:
        require_programs()
    bank = Bank(digits=human_digits(plan.digits, without=plan.dev_speaker))
    bank.noises, bank.dropped["unreadable noises"] = read_noises(plan.noise, plan.test_fold)
    lines = read_lines(plan.text)
    excluded = {str(row["id"]) for path in plan.exclude for row in read_rows(path)}
    rows = [row for row in read_rows(plan.speech) if str(row["id"]) not in excluded]
    more = read_rows(plan.unlabelled) if plan.unlabelled else []
    bank.sentences = rows + [row for row in more if str(row["id"]) not in excluded]
    spoken = [row for row in rows if str(row["text"]).strip()]
    task = progress.add_task("align", total=len(spoken))
    plan.out.mkdir(parents=True, exist_ok=True)
    bank.words = align(
        spoken,
        plan.out / "word_spans.jsonl",
        plan.workers,
        lambda done, total: progress.update(task, completed=done, total=total),
    )
    progress.update(task, completed=len(spoken), total=len(spoken))
    bank.dropped["sentences not aligned"] = len(spoken) - len(bank.words)
    bank.row_of = {str(row["id"]): row for row in bank.sentences}
    tokens, bank.dropped["doubtful digit words in sentences"] = cut_digits(bank)
    bank.digits += tokens
    prompts = lines or [str(row["text"]) for row in spoken]
    rng = np.random.default_rng([plan.seed, 1_000_000])
    task = progress.add_task("synthetic voices", total=plan.voices)
    for _ in synthesise(bank, plan.voices, prompts, rng, plan.workers):
        progress.advance(task)
    bank.index()
    return bank


_bank: Bank | None = None


def _take_bank(bank: Bank) -> None:
    global _bank
    _bank = bank


def _make(task: tuple[str, int, int, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compose and write one clip; its manifest row and its recipe."""
    kind, number, seed, out = task
    if _bank is None:
        raise RuntimeError("the bank has not been handed to this process")
    clip = make_clip(_bank, kind, seed, number)
    name = f"{kind}-{number:06d}"
    audio = f"audio/{kind}/{name}.flac"
    soundfile.write(out / audio, clip.waveform, SAMPLE_RATE, subtype="PCM_16")
    row = {
        "id": name,
        "audio": audio,
        "seconds": round(len(clip.waveform) / SAMPLE_RATE, 4),
        "text": clip.text,
        "speaker": clip.speaker,
        "source": clip.source,
        "licence": clip.licence,
    }
    treatment = clip.treatment.to_dict() if clip.treatment else None
    level = round(active_level_db(clip.waveform), 1)
    recipe = {"id": name, "kind": kind, "made_of": clip.made_of, "active_level_dbfs": level}
    return row, {**recipe, "treatment": treatment}


def make_training(plan: Plan, bank: Bank, progress: Progress) -> Iterator[tuple[dict, dict]]:
    """Write the training clips; yields (manifest row, recipe), kinds mixed, so that any beginning
    is a smaller corpus. The order does not depend on the workers."""
    counts = clip_counts(plan.hours, with_synthetic=plan.voices > 0)
    for kind in counts:
        (plan.out / "audio" / kind).mkdir(parents=True, exist_ok=True)
    tasks = [(kind, i, plan.seed, plan.out) for kind, n in counts.items() for i in range(n)]
    order = np.random.default_rng([plan.seed, 4_000_000]).permutation(len(tasks))
    tasks = [tasks[i] for i in order]
    bar = progress.add_task("clips", total=len(tasks))
    if plan.workers == 1:
        _take_bank(bank)
        made = map(_make, tasks)
        for result in made:
            progress.advance(bar)
            yield result
        return
    with multiprocessing.Pool(plan.workers, _take_bank, (bank,)) as pool:
        for result in pool.imap(_make, tasks, chunksize=32):
            progress.advance(bar)
            yield result


def summarise(rows: Sequence[dict[str, Any]], recipes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Clips, hours, lengths, levels and the share of narrow band, by kind of clip."""
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(recipe["kind"] for recipe in recipes):
        pairs = [(r, q) for r, q in zip(rows, recipes, strict=True) if q["kind"] == kind]
        seconds = [r["seconds"] for r, _ in pairs]
        levels = [q["active_level_dbfs"] for _, q in pairs]
        narrow = [
            q["made_of"] == "human" or bool(q["treatment"] and q["treatment"]["band"] != "wide")
            for _, q in pairs
        ]
        made_of = [q["made_of"] for _, q in pairs]
        kinds[kind] = {
            "positive": KINDS[kind].positive,
            "clips": len(pairs),
            "hours": round(sum(seconds) / 3600, 3),
            "seconds_p5_p50_p95": [round(float(v), 2) for v in np.percentile(seconds, (5, 50, 95))],
            "level_dbfs_p5_p50_p95": [
                round(float(v), 1) for v in np.percentile(levels, (5, 50, 95))
            ],
            "narrow_band_share": round(float(np.mean(narrow)), 3),
            "made_of": {name: made_of.count(name) for name in sorted(set(made_of))},
        }
    return kinds


def sentence_rows(sentences: Sequence[Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Rows of ``sentences.jsonl``: every recording of ordinary speech as it is, text "". Read-aloud
    digit words count as no digits. The recordings stay where they are."""
    return [
        {
            **{key: row[key] for key in ("seconds", "speaker", "source", "licence")},
            "id": f"sentence-{row['id']}",
            "audio": os.path.relpath(row["audio"], out),
            "text": "",
        }
        for row in sentences
    ]


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_corpus(plan: Plan, console: Console) -> dict[str, Any]:
    """Make the whole corpus under ``plan.out``; returns what ``stats.json`` holds.

    Raises:
        DataError, ConfigError: see ``gather``.
    """
    rows, recipes = [], []
    with Progress(console=console) as progress:
        outputs = ("dev", "dev_negative", "sentences", "train", "recipes")
        require_apart(
            [plan.out / f"{name}.jsonl" for name in outputs],
            [plan.speech, *plan.dev_speech, *([plan.unlabelled] if plan.unlabelled else [])],
        )
        bank = gather(plan, progress)
        sizes = (plan.dev_isolated, plan.dev_strings)
        dev = make_dev(plan.digits, plan.dev_speaker, plan.out, plan.seed, *sizes)
        dev_negative = make_dev_negative(plan.dev_speech, plan.out, plan.seed)
        _write_rows(plan.out / "dev.jsonl", dev)
        _write_rows(plan.out / "dev_negative.jsonl", dev_negative)
        _write_rows(plan.out / "sentences.jsonl", sentence_rows(bank.sentences, plan.out))
        # Line by line, so that what is there after an interruption is listed and usable.
        with (plan.out / "train.jsonl").open("w", encoding="utf-8") as manifest:
            for row, recipe in make_training(plan, bank, progress):
                rows.append(row)
                recipes.append(recipe)
                manifest.write(json.dumps(row) + "\n")
                manifest.flush()
    _write_rows(plan.out / "recipes.jsonl", recipes)
    stats = {
        "seed": plan.seed,
        "kinds": summarise(rows, recipes),
        "digit_tokens": {
            f"{kind} {digit}": len(bank.by_digit[kind, digit])
            for kind in ("human", "cut", "synthetic")
            for digit in DIGITS
        },
        "digit_speakers": {k: len(names) for k, names in sorted(_speakers_by_kind(bank).items())},
        "dropped": bank.dropped,
        "dev_clips": len(dev),
        "dev_negative_clips": len(dev_negative),
    }
    (plan.out / "stats.json").write_text(json.dumps(stats, indent=1), encoding="utf-8")
    return stats


def _speakers_by_kind(bank: Bank) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for speaker, kind in bank.kind_of_speaker.items():
        kinds.setdefault(kind, []).append(speaker)
    return kinds


def parser() -> argparse.ArgumentParser:
    """The command line; defaults are those of ``Plan``."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare digits",
        description="Make the training corpus of a spoken-digits recogniser: digits of human and "
        "synthetic voices, and as much of everything else (text empty).",
    )
    add = made.add_argument
    add("--digits", type=Path, required=True, help="Free Spoken Digit Dataset: SPEAKER/D_SPEAKER_N")
    add("--speech", type=Path, required=True, help="manifest (JSONL) of ordinary speech with texts")
    add("--noise", type=Path, required=True, help="folder of noise recordings, ESC-10 names")
    add("--out", type=Path, required=True, help="folder to write audio and manifests to")
    add("--unlabelled", type=Path, help="manifest of more ordinary speech, texts not needed")
    add("--dev-speech", type=Path, nargs="*", default=[], help="manifests for dev_negative.jsonl")
    add("--exclude", type=Path, nargs="*", default=[], help="manifests whose ids are left out")
    add("--text", type=Path, help="sentences for synthetic phrases, a line each, plain or .xz")
    add("--hours", type=float, default=Plan.hours, help="about how much in all (%(default)s)")
    add("--voices", type=int, default=Plan.voices, help="synthetic voices; 0: none (%(default)s)")
    add("--seed", type=int, default=Plan.seed, help="of every random choice (%(default)s)")
    add("--dev-speaker", default=Plan.dev_speaker, help="never in training (%(default)s)")
    add("--dev-isolated", type=int, default=Plan.dev_isolated, help="dev digits (%(default)s)")
    add("--dev-strings", type=int, default=Plan.dev_strings, help="dev strings (%(default)s)")
    add("--test-fold", default=Plan.test_fold, help="noises of this fold left out (%(default)s)")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the corpus is made, 2 when an input is missing."""
    options = vars(parser().parse_args(arguments))
    console = Console(stderr=True)
    try:
        options["dev_speech"], options["exclude"] = (
            tuple(options["dev_speech"]),
            tuple(options["exclude"]),
        )
        stats = make_corpus(Plan(**options), console)
    except RdsdkError as error:
        tell_error(error)
        return 2
    table = Table("kind", "text", "clips", "hours", "seconds", "level dBFS", "narrow")
    for kind, s in stats["kinds"].items():
        spans = [" ".join(map(str, s[key])) for key in list(s)[3:5]]
        text = "digits" if s["positive"] else "none"
        table.add_row(
            kind,
            text,
            str(s["clips"]),
            f"{s['hours']:.2f}",
            *spans,
            f"{s['narrow_band_share']:.2f}",
        )
    Console().print(table)
    Console().print({"dropped": stats["dropped"], "speakers": stats["digit_speakers"]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
