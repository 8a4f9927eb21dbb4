"""Hear recordings and see what was understood: python -m demo_app.recordings [FILE ...]

Without files, the recordings that come with the source are transcribed and compared with what was
really said: read English, and digits with --model digits. Only public names of rdsdk are used; all
the rest is drawing.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import rdsdk

ASSETS = Path(__file__).parent.parent / "tests" / "assets"
LINE_CELLS = 40  # the width of a time line


class Recording(NamedTuple):
    """A file, and what is said in it where that is known."""

    path: Path
    truth: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Transcribe and draw each recording; 2 when one could not be heard."""
    parser = argparse.ArgumentParser(prog="python -m demo_app.recordings", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="sound files")
    parser.add_argument("--model", default=rdsdk.DEFAULT_MODEL, help="a .pte or a bundled name")
    arguments = parser.parse_args(argv)
    screen, complaints = Console(), Console(stderr=True)
    failed = False
    try:
        recognizer = rdsdk.load(arguments.model)
        folder = recordings_of(recognizer)
        recordings = [Recording(path) for path in arguments.files] or bundled_recordings(folder)
        for recording in recordings:
            try:
                show(recording, recognizer, screen)
            except rdsdk.AudioError as error:
                complaints.print(f"[red]{recording.path.name}[/]: ", Text(str(error)))
                failed = True
    except rdsdk.RdsdkError as error:
        complaints.print("[red]error[/]: ", Text(str(error)))
        return 2
    except KeyboardInterrupt:
        return 130
    card = recognizer.card
    data = ", ".join(card.training_data) or "unknown data"
    screen.print(Text(f"Model {card.name}: {card.licence}; trained on {data}.", style="dim"))
    if not arguments.files:
        screen.print(Text(f"Recordings: {attribution(folder)}", style="dim"))
    return 2 if failed else 0


def recordings_of(recognizer: rdsdk.Recognizer) -> Path:
    """The folder of the source tree with what this model is for; no model has learnt from it."""
    return ASSETS / ("digits" if recognizer.card.name == "digits" else "unseen")


def bundled_recordings(folder: Path) -> list[Recording]:
    """The recordings of a folder, with what is said in them."""
    manifest = folder / "manifest.jsonl"
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise rdsdk.AudioError(
            f"the recordings of the demo are not at {folder}; give files of your own"
        ) from None
    rows = [json.loads(line) for line in lines if line.strip()]
    return [Recording(folder / row["audio"], row["text"]) for row in rows]


def attribution(folder: Path) -> str:
    """Whose the recordings of a folder are, and under which licences."""
    rows = map(json.loads, (folder / "manifest.jsonl").read_text("utf-8").splitlines())
    return "; ".join(sorted({f"{row['source']}, {row['licence']}" for row in rows}))


def show(recording: Recording, recognizer: rdsdk.Recognizer, screen: Console) -> None:
    """Transcribe one recording with a spinner, then draw its words and how long it took."""
    begin = time.perf_counter()
    with Progress(console=screen, transient=True) as progress:
        progress.add_task(recording.path.name, total=None)
        # Segments arrive while the file is being read; the pictures want all of them.
        segments = list(recognizer.transcribe(recording.path))
    took = time.perf_counter() - begin
    words = [word for segment in segments for word in segment.words]
    # A pipe-made file may not say how long it is: then it lasts as long as its words.
    seconds = rdsdk.duration_seconds(recording.path) or max([0.1, *(w.end for w in words)])
    text = " ".join(word.text for word in words)
    screen.print(
        Panel(
            picture(words, seconds),
            title=Text(recording.path.name, style="bold"),
            subtitle=Text(f"{seconds:.1f} s in {took:.2f} s: {seconds / took:.0f} x real time"),
            title_align="left",
            subtitle_align="right",
        )
    )
    screen.print(Text.assemble(("heard  ", "dim"), (text or "(nothing)", "bold")))
    if recording.truth is not None:
        screen.print(Text.assemble(("said   ", "dim"), *compared(text, recording.truth)))
    screen.print()


def compared(heard: str, truth: str) -> Iterator[tuple[str, str]]:
    """What was said, red where something else was heard, and how many of its words were."""
    said, got = truth.upper().split(), heard.upper().split()
    blocks = difflib.SequenceMatcher(None, got, said, autojunk=False).get_matching_blocks()
    found = {block.b + offset for block in blocks for offset in range(block.size)}
    for number, word in enumerate(said):
        yield word, "" if number in found else "red"
        yield " ", ""
    if got == said:
        yield " =", "green"
    else:
        more = max(0, len(got) - len(said))
        yield f" {len(found)} of {len(said)} words", "yellow"
        yield f", {more} too many" if more else "", "yellow"


def picture(words: list[rdsdk.Word], seconds: float) -> Table:
    """A row for each word: when, how sure, and where on a line as long as the recording."""
    table = Table(box=None, pad_edge=False)
    for heading, side in (("word", "left"), ("from", "right"), ("to", "right"), ("sure", "right")):
        table.add_column(heading, justify=side, header_style="dim")  # type: ignore[arg-type]
    table.add_column(f"0 s{f'{seconds:.1f} s':>{LINE_CELLS - 3}}", header_style="dim")
    for word in words:
        style = "green" if word.confidence > 0.9 else "yellow" if word.confidence > 0.6 else "red"
        table.add_row(
            Text(word.text, style="bold"),
            f"{word.start:.2f}",
            f"{word.end:.2f}",
            Text(f"{word.confidence:.0%}", style=style),
            Text("".join(cells(word, seconds)), style=style),
        )
    return table


def cells(word: rdsdk.Word, seconds: float) -> Iterator[str]:
    """The line of one word: a block where it is heard, at least one wide."""
    scale = LINE_CELLS / seconds
    first = min(int(word.start * scale), LINE_CELLS - 1)
    last = max(first, min(int(word.end * scale), LINE_CELLS - 1))
    for cell in range(LINE_CELLS):
        yield "█" if first <= cell <= last else "·"


if __name__ == "__main__":
    sys.exit(main())
