"""``rdsdk evaluate``: error rates of an artefact or a checkpoint on one corpus or several."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.errors import ConfigError, DataError
from rdsdk.evaluation.transcribers import SAMPLE_RATE, Transcriber, load_transcriber
from rdsdk.evaluation.wer import ErrorRates, combine, error_rates, normalise

PIPE_WIDTH = 160


@dataclass(frozen=True)
class Evaluation:
    """What one corpus gave. ``processing_seconds`` is listening alone, without reading files."""

    name: str
    ids: tuple[str, ...]
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]
    rates: ErrorRates
    audio_seconds: float
    processing_seconds: float

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound."""
        return self.processing_seconds / self.audio_seconds

    def to_dict(self) -> dict[str, object]:
        """A JSON value; a rate without any reference word is null."""
        rates = self.rates
        low, high = rates.wer_interval()
        return {
            "data": self.name,
            "clips": rates.utterances,
            "audio_seconds": round(self.audio_seconds, 3),
            "reference_words": rates.words.reference,
            "wer": _finite(rates.wer),
            "wer_interval_95": [_finite(low), _finite(high)],
            "cer": _finite(rates.cer),
            "substitutions": rates.words.substitutions,
            "deletions": rates.words.deletions,
            "insertions": rates.words.insertions,
            "empty_references": rates.empty_references,
            "false_clips": rates.false_utterances,
            "false_words": rates.false_words,
            "real_time_factor": round(self.real_time_factor, 5),
        }


def evaluate(
    transcribe: Transcriber, cuts: CutSet, name: str, normalised: bool = False
) -> Evaluation:
    """Transcribe every utterance and compare it with its text.

    Raises:
        DataError: an utterance has no transcript, or its recording cannot be decoded.
    """
    ids, references, hypotheses = [], [], []
    audio_seconds = processing_seconds = 0.0
    progress = Console(stderr=True)
    for cut in track(
        list(cuts) if not cuts.is_lazy else cuts,
        description=name,
        console=progress,
        transient=True,
        disable=not progress.is_terminal,
    ):
        reference = transcript(cut)
        if reference is None:
            raise DataError(
                f"{cut.id} of {name} has no transcript, so nothing can be compared; an empty text "
                "would say that it holds no words"
            )
        waveform = load_waveform(cut)
        begin = time.perf_counter()
        hypothesis = transcribe(waveform)
        processing_seconds += time.perf_counter() - begin
        audio_seconds += len(waveform) / SAMPLE_RATE
        ids.append(cut.id)
        references.append(normalise(reference) if normalised else reference)
        hypotheses.append(normalise(hypothesis) if normalised else hypothesis)
    return Evaluation(
        name,
        tuple(ids),
        tuple(references),
        tuple(hypotheses),
        error_rates(references, hypotheses),
        audio_seconds,
        processing_seconds,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: a table, or JSON, on the output; 0 if all was evaluated.

    Raises:
        RdsdkError: a model, corpus or recording is not usable.
    """
    arguments = _parser().parse_args(argv)
    if arguments.hypotheses is not None and not arguments.hypotheses.parent.is_dir():
        raise ConfigError(f"there is no folder {arguments.hypotheses.parent}; make it first")
    # Before the model is loaded, so that a wrong path is told at once.
    corpora = [(source, read_cuts(source)) for source in arguments.data]
    transcribe = load_transcriber(arguments.model, arguments.threads)
    evaluations = [
        evaluate(transcribe, cuts, source, arguments.normalise) for source, cuts in corpora
    ]
    if arguments.hypotheses is not None:
        _write_hypotheses(arguments.hypotheses, evaluations)
    if arguments.json:
        values = [evaluation.to_dict() for evaluation in evaluations]
        print(json.dumps({"model": arguments.model, "results": values}, indent=2))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=PIPE_WIDTH)
        console.print(_table(arguments.model, evaluations))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdsdk evaluate", description=__doc__)
    parser.add_argument(
        "model", metavar="MODEL", help="a .pte file, a bundled name or a checkpoint folder"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="a JSONL manifest, a LibriSpeech folder, lhotse cuts or a Shar folder",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--hypotheses", type=Path, metavar="FILE", help="write what was recognised, JSONL"
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="compare upper-case letters, digits and apostrophes only",
    )
    parser.add_argument("--threads", type=int, help="threads of the model")
    return parser


def _table(model: str, evaluations: Sequence[Evaluation]) -> Table:
    table = Table(title=f"Error rates of {model}", title_justify="left")
    table.add_column("data", overflow="fold")
    for name in ("clips", "hours", "words", "WER %", "95 %", "CER %", "sub", "del", "ins"):
        table.add_column(name, justify="right")
    table.add_column("false clips", justify="right")
    table.add_column("RTF", justify="right")
    rows = [(one.name, one.rates, one.audio_seconds, one.processing_seconds) for one in evaluations]
    if len(rows) > 1:
        together = combine(rates for _, rates, _, _ in rows)
        rows.append(("together", together, sum(r[2] for r in rows), sum(r[3] for r in rows)))
    for name, rates, audio_seconds, processing_seconds in rows:
        low, high = rates.wer_interval()
        table.add_row(
            name,
            str(rates.utterances),
            f"{audio_seconds / 3600:.2f}",
            str(rates.words.reference),
            _percent(rates.wer),
            f"{_percent(low)} to {_percent(high)}",
            _percent(rates.cer),
            str(rates.words.substitutions),
            str(rates.words.deletions),
            str(rates.words.insertions),
            f"{rates.false_utterances} of {rates.empty_references}",
            f"{processing_seconds / audio_seconds:.3f}",
        )
    return table


def _write_hypotheses(path: Path, evaluations: Sequence[Evaluation]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for one in evaluations:
            for name, reference, hypothesis, words in zip(
                one.ids, one.references, one.hypotheses, one.rates.word_counts, strict=True
            ):
                row = {
                    "data": one.name,
                    "id": name,
                    "reference": reference,
                    "hypothesis": hypothesis,
                    "errors": words.errors,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}" if math.isfinite(rate) else "-"


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None
