"""What a probe found: as JSON, as tables of one probe or several, and as a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from rdsdk.errors import DataError
from rdsdk.evaluation.evaluate import Evaluation
from rdsdk.evaluation.figures import draw_layer_weights
from rdsdk.evaluation.report import percent, wide_console
from rdsdk.evaluation.wer import ErrorCounts, bootstrap_interval, finite

RESULT = "result.json"


@dataclass(frozen=True)
class ProbeResult:
    """One finished probe.

    ``layer_weights`` are L + 1: of what enters the first layer, then of each layer. ``results`` has
    an entry of ``counted`` for each corpus. ``step`` is that of the best head.
    """

    model: str
    task: str
    chunk_frames: int | None
    precision: str
    head: dict[str, Any]
    symbols: int
    step: int | None
    layer_weights: tuple[float, ...]
    results: tuple[dict[str, Any], ...]

    def write(self, folder: Path) -> None:
        """Into ``result.json``, replaced whole."""
        part = folder / (RESULT + ".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(folder / RESULT)

    @classmethod
    def read(cls, folder: Path) -> ProbeResult:
        """Of a probe's output folder.

        Raises:
            DataError: it holds no result of a finished probe.
        """
        path = folder / RESULT
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if set(value) != {item.name for item in fields(cls)}:
                raise ValueError(f"its fields are {sorted(value)}")
            return cls(
                **{
                    **value,
                    "layer_weights": tuple(value["layer_weights"]),
                    "results": tuple(value["results"]),
                }
            )
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{folder} holds no result of a finished probe ({error}); give the output folder "
                "of `rdsdk probe`"
            ) from error


def counted(evaluation: Evaluation, task: str, left_out: int) -> dict[str, Any]:
    """One corpus as JSON values: rates, 95 % interval, counts; a rate without reference is null.

    Where symbols are phones, each "word" of the evaluation is a phone.
    """
    rates = evaluation.rates
    value = {
        "data": evaluation.name,
        "clips": rates.utterances,
        "left_out": left_out,
        "audio_seconds": round(evaluation.audio_seconds, 3),
    }
    if task == "phones":
        return value | _rate("per", "phones", rates.words, rates.word_counts)
    return (
        value
        | _rate("wer", "words", rates.words, rates.word_counts)
        | {"cer": finite(rates.cer), "reference_characters": rates.characters.reference}
    )


def _rate(
    name: str, unit: str, together: ErrorCounts, each: Sequence[ErrorCounts]
) -> dict[str, Any]:
    return {
        name: finite(together.rate),
        f"{name}_interval_95": [finite(bound) for bound in bootstrap_interval(each)],
        f"reference_{unit}": together.reference,
        "substitutions": together.substitutions,
        "deletions": together.deletions,
        "insertions": together.insertions,
    }


def show(results: Sequence[ProbeResult]) -> None:
    """Tables of errors and layer weights on the output."""
    console = wide_console()
    console.print(errors_table(results))
    for result in results:
        if result.head["layer"] is None:
            console.print(weights_table(result))


def errors_table(results: Sequence[ProbeResult]) -> Table:
    """A row for each probe and corpus."""
    table = Table(title="Errors of heads on frozen models", title_justify="left")
    for name in ("model", "task", "layer", "data"):
        table.add_column(name, overflow="fold")
    for name in ("clips", "left out", "units", "rate %", "95 %", "CER %", "sub", "del", "ins"):
        table.add_column(name, justify="right")
    for result in results:
        layer = result.head["layer"]
        for row in result.results:
            rate, unit = ("per", "phones") if result.task == "phones" else ("wer", "words")
            low, high = row[f"{rate}_interval_95"]
            table.add_row(
                result.model,
                result.task,
                "mixed" if layer is None else str(layer),
                row["data"],
                str(row["clips"]),
                str(row["left_out"]),
                f"{row[f'reference_{unit}']} {unit}",
                f"{rate.upper()} {percent(row[rate])}",
                f"{percent(low)} to {percent(high)}",
                percent(row.get("cer")),
                *(str(row[name]) for name in ("substitutions", "deletions", "insertions")),
            )
    return table


def weights_table(result: ProbeResult) -> Table:
    """How the layers of one model were mixed."""
    table = Table(title=f"Layer weights on {result.model}, {result.task}", title_justify="left")
    for name in layer_names(len(result.layer_weights)):
        table.add_column(name, justify="right")
    table.add_row(*(f"{weight:.3f}" for weight in result.layer_weights))
    return table


def layer_names(states: int) -> list[str]:
    """Of what enters the first layer, then of each layer, counted from 0."""
    return ["input", *map(str, range(states - 1))]


def draw(path: Path, result: ProbeResult) -> None:
    """A PNG of the layer weights."""
    names = layer_names(len(result.layer_weights))
    draw_layer_weights(path, names, result.layer_weights, f"{result.model}, {result.task}")
