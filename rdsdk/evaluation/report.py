"""Evaluations as tables, files and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rdsdk.errors import ConfigError
from rdsdk.evaluation.evaluate import Evaluation
from rdsdk.evaluation.wer import ErrorRates, combine
from rdsdk.evaluation.word_times import NEAR_SECONDS, SPREAD, spread

PIPE_WIDTH = 160


def rates_table(model: str, evaluations: Sequence[Evaluation]) -> Table:
    """A row for each corpus and condition; corpora under one condition are also taken together."""
    several = len({one.condition for one in evaluations}) > 1
    table = Table(title=Text(f"Error rates of {model}"), title_justify="left")
    table.add_column("data", overflow="fold")
    if several:
        table.add_column("condition")
    for name in ("clips", "hours", "words", "WER %", "95 %", "CER %", "sub", "del", "ins"):
        table.add_column(name, justify="right")
    table.add_column("false clips", justify="right")
    table.add_column("RTF", justify="right")
    for name in dict.fromkeys(one.condition for one in evaluations):
        under = [one for one in evaluations if one.condition == name]
        rows = [(one.name, one.rates, one.audio_seconds, one.processing_seconds) for one in under]
        if len(rows) > 1:
            together = combine(rates for _, rates, _, _ in rows)
            rows.append(("together", together, sum(r[2] for r in rows), sum(r[3] for r in rows)))
        for data, rates, audio_seconds, processing_seconds in rows:
            table.add_row(
                Text(data),
                *([name] if several else []),
                str(rates.utterances),
                f"{audio_seconds / 3600:.2f}",
                *_cells(rates),
                f"{processing_seconds / audio_seconds:.3f}",
            )
    return table


def times_table(model: str, evaluations: Sequence[Evaluation]) -> Table:
    """A row for starts and one for ends of the words of each corpus and condition."""
    title = Text(f"Times of the words that {model} recognised, its time less the reference's")
    table = Table(title=title, title_justify="left")
    for name in ("data", "condition", "edge"):
        table.add_column(name, overflow="fold")
    near = f"within {1000 * NEAR_SECONDS:.0f} ms, %"
    for name in ("words", "mean ms", "median ms", "off by, median", "off by, p95", near):
        table.add_column(name, justify="right")
    for one in evaluations:
        for edge, differences in (("start", one.times.starts), ("end", one.times.ends)):
            if (found := spread(differences)) is not None:
                figures = [f"{found[key]:.0f}" for key in SPREAD]
                near_share = f"{100 * found['near']:.1f}"
                words = str(len(differences))
                table.add_row(Text(one.name), one.condition, edge, words, *figures, near_share)
    return table


def group_table(evaluation: Evaluation, group: str) -> Table:
    """The same figures for each speaker (the worst first) or length of one evaluation."""
    found = evaluation.by_speaker() if group == "speaker" else evaluation.by_length()
    if group == "speaker":
        found = dict(sorted(found.items(), key=lambda item: -item[1].wer))
    table = Table(
        title=Text(f"{evaluation.name}, {evaluation.condition}, by {group}"), title_justify="left"
    )
    table.add_column(group, overflow="fold")
    for name in ("clips", "words", "WER %", "95 %", "CER %", "sub", "del", "ins"):
        table.add_column(name, justify="right")
    table.add_column("false clips", justify="right")
    for label, rates in found.items():
        table.add_row(Text(label), str(rates.utterances), *_cells(rates))
    return table


def write_hypotheses(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """A JSONL row for each utterance under each condition."""
    with path.open("w", encoding="utf-8") as file:
        for one in evaluations:
            for utterance, words in zip(one.utterances, one.rates.word_counts, strict=True):
                row = {
                    "data": one.name,
                    "condition": one.condition,
                    "id": utterance.id,
                    "reference": utterance.reference,
                    "hypothesis": utterance.hypothesis,
                    "errors": words.errors,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def require_drawable(path: Path) -> None:
    """A figure can be written as the end of its name says.

    Raises:
        ConfigError: that is no format of figures.
    """
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ConfigError(
            f"cannot draw {path}: its name must end in one of {', '.join(sorted(known))}"
        )


def draw_rates(path: Path, model: str, evaluations: Sequence[Evaluation]) -> None:
    """A figure, in the format that the name ends in: the WER of each corpus under each condition,
    with its 95 % interval."""
    names = list(dict.fromkeys(one.name for one in evaluations))
    places = list(dict.fromkeys(one.condition for one in evaluations))
    figure = Figure(figsize=(max(5.0, 1.2 + 0.9 * len(places)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        of_name = {one.condition: one.rates for one in evaluations if one.name == name}
        rates = [100 * of_name[place].wer for place in places]
        bounds = [of_name[place].wer_interval() for place in places]
        below = [max(0.0, r - 100 * low) for r, (low, _) in zip(rates, bounds, strict=True)]
        above = [max(0.0, 100 * high - r) for r, (_, high) in zip(rates, bounds, strict=True)]
        at = [place + width * (number - (len(names) - 1) / 2) for place in range(len(places))]
        axes.bar(at, rates, width, yerr=(below, above), capsize=3, label=Path(name).stem)
    axes.set_xticks(range(len(places)), places, rotation=30 if len(places) > 4 else 0, ha="right")
    axes.set_ylabel("word error rate, %")
    axes.set_title(model, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(names) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)


def _cells(rates: ErrorRates) -> list[str]:
    low, high = rates.wer_interval()
    return [
        str(rates.words.reference),
        percent(rates.wer),
        f"{percent(low)} to {percent(high)}",
        percent(rates.cer),
        str(rates.words.substitutions),
        str(rates.words.deletions),
        str(rates.words.insertions),
        f"{rates.false_utterances} of {rates.empty_references}",
    ]


def percent(rate: float | None) -> str:
    """A rate as a cell of a table; "-" where there is none."""
    return "-" if rate is None or not math.isfinite(rate) else f"{100 * rate:.2f}"


def wide_console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for a file."""
    found = Console()
    return found if found.is_terminal else Console(width=PIPE_WIDTH)
