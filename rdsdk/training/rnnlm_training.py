"""Text -> a recurrent word language model, which ``rdsdk export`` makes a ``.rnnlm`` of.

The text has a sentence a line, its words written as the recogniser writes them; .gz, .bz2 and .xz
are read too. Sentences stay in their order, since what a sentence is about helps with the next: the
text runs past the model in parallel streams, and what was read before is remembered (truncated
back-propagation through time). Words beyond the most frequent are <unk>. The last sentences are
held out to tell the perplexity. Ctrl-C ends the run after the current step; --resume goes on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rdsdk.data.telling import tell_error
from rdsdk.errors import ConfigError, RdsdkError
from rdsdk.models import rnnlm
from rdsdk.training.resuming import INTERRUPTED, RESUME_FILE, resume_file_of
from rdsdk.training.rnnlm_run import PRECISIONS, Run, Settings
from rdsdk.training.rnnlm_text import read_text


class Figures(NamedTuple):
    """How a run goes: ``share`` of it is done; the perplexity of train is of the last steps, and
    that held out is None where it was not measured."""

    step: int
    share: float
    words_per_second: float
    perplexity: float
    held_out_perplexity: float | None


@dataclass(frozen=True)
class RnnLmReport:
    """What was learnt. Perplexity is of the held-out sentences, each read by itself, per word and
    sentence end, <unk> counted as a word; None without any."""

    words: int
    known_words: int
    held_out_words: int
    unknown_share: float
    perplexity: float | None
    parameters: int
    steps: int
    seconds: float


Watch = Callable[[Figures], None]


def train(
    texts: Sequence[Path],
    output: Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    licence: str = "unknown",
    training_data: Sequence[str] = (),
    watch: Watch = lambda figures: None,
    watch_every: int = 20,
    measure_every: int = 1000,
    save_every: int = 500,
) -> RnnLmReport | None:
    """Train a language model into a folder.

    Args:
        texts: files with a sentence a line.
        output: a folder; until the run is whole it holds what is needed to resume it.
        resume: go on with the run that was interrupted there. A run that ends by its epochs comes
            to the same weights as if it had not been.
        licence, training_data: what the folder says of the model.
        watch: told how it goes every ``watch_every`` steps.
        measure_every: steps between perplexities of the held-out sentences.
        save_every: steps after which a run that is killed loses nothing.

    Returns:
        None when it was interrupted, by Ctrl-C or SIGTERM, and can be resumed.

    Raises:
        ConfigError: a number is out of range, or there is nothing, or something else, to resume.
        DataError: a text cannot be read or is too little.
        CheckpointError: what is to be resumed is damaged.
        TrainingError: the loss became infinite or NaN.
    """
    settings = settings or Settings()
    resume_file = resume_file_of(output, resume)
    text = read_text(texts, settings.words, settings.held_out)
    run = Run(text, settings)
    if resume:
        run.load(resume_file)
    output.mkdir(parents=True, exist_ok=True)
    with _asked_to_stop() as stop:
        while run.share() < 1:
            run.step()
            at = run.steps
            measured = run.held_out_perplexity() if at % measure_every == 0 else None
            if measured is not None or at % watch_every == 0:
                figures = (at, min(1.0, run.share()), run.speed(), run.perplexity(), measured)
                watch(Figures(*figures))
            if stop.is_set() or at % save_every == 0:
                run.save(resume_file)
            if stop.is_set():
                return None
    report = _report(run)
    provenance: dict[str, object] = {
        "licence": licence,
        "training_data": list(training_data),
        "measured": asdict(report),
        "settings": asdict(settings),
    }
    rnnlm.save(output, run.model, provenance)
    resume_file.unlink(missing_ok=True)
    return report


def _report(run: Run) -> RnnLmReport:
    measured = run.held_out_perplexity()
    return RnnLmReport(
        words=len(run.text.train),
        known_words=len(run.text.words),
        held_out_words=run.text.held_out_words,
        unknown_share=round(run.text.unknown_share, 5),
        perplexity=None if measured is None else round(measured, 2),
        parameters=run.model.parameter_count(),
        steps=run.steps,
        seconds=round(run.seconds(), 1),
    )


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM; a second one ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(progress: Progress) -> Watch:
    """A line that says how it goes."""
    task = progress.add_task("learning", total=1.0, said="")

    def watch(figures: Figures) -> None:
        said = f"{figures.words_per_second:,.0f} words/s, perplexity {figures.perplexity:.1f}"
        progress.update(task, completed=figures.share, said=said)
        held_out = figures.held_out_perplexity
        if held_out is not None:
            said = f"step {figures.step}: {said}, held out {held_out:.1f}"
            progress.console.print(said, highlight=False)

    return watch


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="rdsdk prepare rnnlm", description=__doc__)
    add = made.add_argument
    add("texts", nargs="+", type=Path, metavar="TEXT")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    helps = {
        "words": "that it knows at most",
        "epochs": "passes over the text",
        "minutes": "end after so many, if they are over before the epochs",
        "batch": "parallel streams of text",
        "span": "words of a stream that a step learns from",
        "learning_rate": "at its highest",
        "held_out": "share of the sentences, the last ones, that measure",
        "seed": "of all that is drawn",
        "embedding": "width of a word's row (default: it is read by its row of the softmax)",
        "hidden": "width of the cell",
        "projection": "width of what is handed on",
        "dropout": "share of numbers left out in training",
    }
    for field in fields(Settings):
        if field.name in helps:
            kind = float if isinstance(field.default, float) or field.name == "minutes" else int
            told = helps[field.name] + ("" if field.default is None else " (default: %(default)s)")
            option = "--" + field.name.replace("_", "-")
            add(option, type=kind, default=field.default, metavar="N", help=told)
    add(
        "--precision",
        choices=PRECISIONS,
        default=Settings.precision,
        help="of the products; bfloat16 is faster where the processor multiplies it (default: "
        "%(default)s)",
    )
    add("--threads", type=int, metavar="N", help="processor threads (default: torch's choice)")
    add("--resume", action="store_true", help="go on with the run that was interrupted there")
    add("--licence", default="unknown", help="of the model, for its card")
    add("--training-data", nargs="+", default=[], metavar="TEXT", help="what it is, for its card")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and print a report as JSON; 2 when something is wrong, 3 when it was interrupted."""
    options = vars(parser().parse_args(arguments))
    names = {field.name for field in fields(Settings)}
    console = Console(stderr=True)
    try:
        settings = Settings(**{name: options.pop(name) for name in names & set(options)})
        threads = options.pop("threads")
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads is {threads}, expected at least 1")
            torch.set_num_threads(threads)
        columns = BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}")
        with Progress(*columns, console=console) as progress:
            report = train(settings=settings, watch=_shown(progress), **options)
            progress.update(progress.task_ids[0], completed=1.0 if report else None)
    except RdsdkError as error:
        tell_error(error)
        return 2
    if report is None:
        console.print(f"interrupted; --resume goes on from {options['output'] / RESUME_FILE}")
        return INTERRUPTED
    print(json.dumps(asdict(report), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
