"""Make a corpus of aligned phones: ``rdsdk prepare phones --help``.

A student that starts from random weights learns to recognise far sooner when every frame has a
target. Here each frame's target is a phone: PocketSphinx finds the words of a transcript, its
dictionary spells them, and the phones of a word share its time in proportion to how long such
phones usually last. That is crude (a frame or two off inside a word) and enough for a start.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from rich.console import Console
from rich.progress import Progress

from rdsdk.data.digit_sources import align, read_rows, refuse_repeated_ids
from rdsdk.data.letter_to_sound import sounded
from rdsdk.data.pronunciations import read_pronunciations
from rdsdk.data.telling import tell_error
from rdsdk.data.word_clips import SAMPLE_RATE, Words, pronunciations, read_mono
from rdsdk.errors import DataError, RdsdkError
from rdsdk.outputs import require_apart

_USUAL_LENGTHS = {
    1.5: "AW AY OY",
    1.3: "AA AE AO EY OW ER",
    1.2: "S SH F CH",
    1.1: "EH IY UW Z TH ZH JH",
    0.9: "IH UH N NG M K P T",
    0.8: "AH L R W Y G B HH",
    0.7: "D V DH",
}
USUAL_LENGTH = {p: length for length, phones in _USUAL_LENGTHS.items() for p in phones.split()}
"""About how long each phone lasts beside the others, in read American English."""
PHONES = tuple(sorted(USUAL_LENGTH))
"""The 39 phones of the CMU dictionary, without stress."""


def phones_of(words: Words, spelt: Mapping[str, Sequence[str]]) -> list[tuple[str, float, float]]:
    """(phone, start, end) in seconds for every word, each word's time shared among its phones."""
    alignment = []
    for span in words.spans:
        lengths = [USUAL_LENGTH[phone] for phone in spelt[span.word]]
        at = span.start
        for phone, length in zip(spelt[span.word], lengths, strict=True):
            end = at + length / sum(lengths) * span.seconds
            alignment.append((phone, round(at, 4), round(end, 4)))
            at = end
    return alignment


def unknown_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The words of manifest rows that PocketSphinx's dictionary does not have, in capitals."""
    known = read_pronunciations().phones
    words = dict.fromkeys(word for row in rows for word in str(row["text"]).upper().split())
    return [word for word in words if word not in known]


def make_corpus(
    manifests: Sequence[Path],
    out: Path,
    name: str,
    workers: int,
    progress: Progress,
    sound_out: bool = False,
) -> int:
    """Write ``out/NAME.jsonl`` with FLAC copies of every recording that aligns; their number.

    Words already in ``out/word_spans.jsonl`` are not aligned again. With ``sound_out`` those that
    the dictionary does not have are pronounced by rule (``rdsdk.data.letter_to_sound``); without,
    recordings with them are left out.

    Raises:
        DataError: a manifest is missing, ids repeat, or none of the recordings aligns.
        ConfigError: PocketSphinx, or espeak-ng, is not installed.
    """
    folder = out / "audio" / name
    rows = [row for path in manifests for row in read_rows(path) if str(row["text"]).strip()]
    refuse_repeated_ids(rows)
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(f"align {name}", total=len(rows))
    more = sounded(unknown_words(rows)) if sound_out else {}
    words = align(
        rows,
        out / "word_spans.jsonl",
        workers,
        lambda done, total: progress.update(task, completed=done, total=total),
        more,
    )
    spelt = pronunciations({span.word for found in words.values() for span in found.spans}, more)
    task = progress.add_task(f"write {name}", total=len(words))
    with (out / f"{name}.jsonl").open("w", encoding="utf-8") as made:
        for row in rows:
            if (found := words.get(str(row["id"]))) is not None:
                made.write(json.dumps(_written(row, phones_of(found, spelt), folder)) + "\n")
                progress.advance(task)
    if not words:
        raise DataError(
            f"no recording of {', '.join(map(str, manifests))} aligns with its text; nothing was "
            "made"
        )
    return len(words)


def _written(
    row: Mapping[str, Any], alignment: Sequence[tuple[str, float, float]], folder: Path
) -> dict[str, Any]:
    waveform = read_mono(Path(row["audio"]))
    # An id may be a path, as those of some corpora are.
    plain = str(row["id"]).replace("%", "%25").replace("/", "%2F")
    audio = folder / f"{plain}.flac"
    soundfile.write(audio, waveform, SAMPLE_RATE, subtype="PCM_16")
    return {
        **row,
        "audio": str(audio.relative_to(folder.parents[1])),
        "seconds": round(len(waveform) / SAMPLE_RATE, 4),
        "text": " ".join(phone for phone, _, _ in alignment),
        "alignment": alignment,
    }


def _refuse_one_name_for_two(dev: Sequence[Path], train: Sequence[Path]) -> None:
    # Both are aligned into one file, by id.
    names = {str(row["id"]): row for path in dev for row in read_rows(path)}
    for row in (row for path in train for row in read_rows(path)):
        other = names.get(str(row["id"]), row)
        if (other["text"], other["audio"]) != (row["text"], row["audio"]):
            raise DataError(
                f"the id {row['id']!r} is {other['audio']} in dev and {row['audio']} in train, or "
                "has another text there; ids are unique"
            )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare phones",
        description="Align transcribed speech and write it as a corpus of phones.",
    )
    add = made.add_argument
    speech = "manifests (JSONL) of speech with texts"
    add("--train", type=Path, nargs="+", required=True, help=speech)
    add("--dev", type=Path, nargs="+", required=True, help="the same, of other speakers")
    add("--out", type=Path, required=True, help="folder to write audio and manifests to")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    add("--sound-out", action="store_true", help="guess words in no dictionary, by espeak-ng")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the corpus is made, 2 when an input is missing."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        require_apart(
            [options.out / "dev.jsonl", options.out / "train.jsonl"],
            [*options.dev, *options.train],
        )
        _refuse_one_name_for_two(options.dev, options.train)
        with Progress(console=console) as progress:
            for name in ("dev", "train"):
                manifests = getattr(options, name)
                count = make_corpus(
                    manifests, options.out, name, options.workers, progress, options.sound_out
                )
                console.print(f"{name}: {count} recordings")
    except RdsdkError as error:
        tell_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
