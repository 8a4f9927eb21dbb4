"""The comparison's figures as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import RUNTIMES
from tests.benchmarks.shapes import SHAPES, WITH_AND_WITHOUT

Group = dict[str, Any]
Row = dict[str, Any]
AIMED = ("ARMHuBERT", "ARMHuBERT-S")
TARGET = 12.0
"""Times as fast as HuBERT Base in torch eager that these shall be in int8, with one thread."""


def markdown(measured: Sequence[Group]) -> str:
    """Everything that is said of a run."""
    return "\n".join(
        [
            *_heading(measured),
            *_speeds(measured),
            *_reuse(measured),
            *_int8(measured),
            *_sizes(measured),
        ]
    )


def _rows(measured: Sequence[Group], threads: int) -> dict[tuple[str, str], Row]:
    """By model and runtime; the anchor, which every group has, from the first."""
    found: dict[tuple[str, str], Row] = {}
    for group in measured:
        if group["threads"] == threads:
            for row in group["rows"]:
                found.setdefault((row["model"], row["runtime"]), row)
    return found


def _all_threads(measured: Sequence[Group]) -> list[int]:
    return sorted({group["threads"] for group in measured})


def _models(rows: dict[tuple[str, str], Row]) -> list[str]:
    return [model for model in SHAPES if any(model == each for each, _ in rows)]


def _runtimes(rows: dict[tuple[str, str], Row]) -> list[str]:
    return [runtime for runtime in RUNTIMES if any(runtime == each for _, each in rows)]


def _heading(measured: Sequence[Group]) -> Iterator[str]:
    first = measured[0]
    where = first["machine"]
    versions = ", ".join(
        f"{name} {number}"
        for name, number in where["versions"].items()
        if name not in ("rdsdk", "numpy") and number
    )
    yield (
        f"{where['processor']}, {where['usable_cores']} cores; {versions}. "
        f"{first['sound_seconds']:.1f} s of speech, {first['rounds']} rounds."
    )
    worst = max((group["load_average_after"] or 0.0) - group["threads"] for group in measured)
    if first["clock"] == "cpu":
        yield "Processor time, not wall time."
    elif worst > 0.5:
        yield (
            f"**Not a quiet machine**: its load was {worst:.1f} above what was measured. Ratios "
            "hold better than times."
        )


def _speeds(measured: Sequence[Group]) -> Iterator[str]:
    for threads in _all_threads(measured):
        rows = _rows(measured, threads)
        runtimes = _runtimes(rows)
        yield (
            f"\nTimes as fast as HuBERT Base in torch eager, {threads} "
            f"thread{'s'[: threads > 1]} (in brackets the real-time factor):\n"
        )
        yield f"| | MACs | {' | '.join(runtimes)} |"
        yield "|---" * (len(runtimes) + 2) + "|"
        for model in _models(rows):
            those = {runtime: rows.get((model, runtime)) for runtime in runtimes}
            any_row = next(row for row in those.values() if row)
            cells = [
                "-" if row is None else f"{row['speedup']:.1f} ({row['real_time_factor']:.4f})"
                for row in those.values()
            ]
            yield f"| {model} | {any_row['macs'] / 1e9:.1f} G | {' | '.join(cells)} |"


def _reuse(measured: Sequence[Group]) -> Iterator[str]:
    """Time saved beside MACs saved, of pairs measured in the same rounds."""
    threads = _all_threads(measured)
    lines = []
    for reusing, plain in WITH_AND_WITHOUT:
        for runtime in RUNTIMES:
            cells, share = [], None
            for number in threads:
                rows = _rows(measured, number)
                pair = rows.get((reusing, runtime)), rows.get((plain, runtime))
                if pair[0] is None or pair[1] is None:
                    cells.append("-")
                    continue
                share = 1 - pair[0]["macs"] / pair[1]["macs"]
                saved = 1 - _median_ratio(pair[0], pair[1])
                cells.append(f"{saved:.1%}")
            if share is not None:
                lines.append(f"| {reusing}, {runtime} | {share:.1%} | {' | '.join(cells)} |")
    if lines:
        heads = " | ".join(f"of the time, {n} thread{'s'[: n > 1]}" for n in threads)
        yield "\nWhat reusing attention maps saves:\n"
        yield f"| | of the MACs | {heads} |"
        yield "|---" * (len(threads) + 2) + "|"
        yield from lines


def _median_ratio(row: Row, other: Row) -> float:
    """Of the times of two contenders, round by round."""
    import numpy as np

    return float(np.median(np.divide(row["real_time_factors"], other["real_time_factors"])))


def _int8(measured: Sequence[Group]) -> Iterator[str]:
    """The two aims for int8, in words."""
    for threads in _all_threads(measured):
        rows = _rows(measured, threads)
        for model in _models(rows):
            ours, theirs = rows.get((model, ".pte int8")), rows.get((model, "onnxruntime int8"))
            if ours is None:
                continue
            said = f"\n{model}, `.pte` int8, {threads} thread{'s'[: threads > 1]}: "
            low, high = ours["speedup_quartiles"]
            said += f"{ours['speedup']:.1f} times (quartiles {low:.1f} to {high:.1f}) HuBERT Base"
            if threads == 1 and model in AIMED:
                met = "met" if ours["speedup"] >= TARGET else "**missed**"
                said += f", at least {TARGET:.0f} wanted: {met}"
            if theirs is not None:
                ratio = 1 / _median_ratio(ours, theirs)
                said += f"; {ratio:.2f} times as fast as onnxruntime int8"
                said += "" if ratio > 1 else ", **slower**"
            yield said + "."


def _sizes(measured: Sequence[Group]) -> Iterator[str]:
    """Of the files and processes, one thread count."""
    threads = _all_threads(measured)[0]
    rows = _rows(measured, threads)
    yield (
        "\n| | file MB | load s | first pass s | peak memory MB | agrees with float32 to dB "
        "| step p50 / p95 / p99 ms |"
    )
    yield "|---" * 7 + "|"
    for model in _models(rows):
        for runtime in _runtimes(rows):
            row = rows.get((model, runtime))
            if row is None:
                continue
            step = row["step"]
            cells = [
                _number(row["size_mb"], 1),
                f"{row['load_seconds']:.2f}",
                f"{row['first_seconds']:.2f}",
                _number(row["peak_mb"], 0),
                _number(row["snr_db"], 0),
                f"{step['p50_ms']:.1f} / {step['p95_ms']:.1f} / {step['p99_ms']:.1f}"
                if step
                else "-",
            ]
            yield f"| {model}, {runtime} | {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(measured: Sequence[Group], path: Path) -> None:
    """Times as fast as HuBERT Base, a panel for each number of threads, quartiles as whiskers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    threads = _all_threads(measured)
    figure, axes = pyplot.subplots(
        1, len(threads), figsize=(5 * len(threads), 5.6), sharey=True, layout="constrained"
    )
    colours = pyplot.get_cmap("tab10")
    for axis, number in zip([axes] if len(threads) == 1 else axes, threads, strict=True):
        rows = _rows(measured, number)
        models, runtimes = _models(rows), list(RUNTIMES)
        height = 0.84 / len(runtimes)
        for place, runtime in enumerate(runtimes):
            for at, model in enumerate(models):
                row = rows.get((model, runtime))
                if row is None:
                    continue
                speed = row["speedup"]
                low, high = row["speedup_quartiles"]
                where = at + (place - (len(runtimes) - 1) / 2) * height
                axis.barh(
                    where,
                    speed,
                    height,
                    xerr=[[max(0, speed - low)], [max(0, high - speed)]],
                    color=colours(place),
                    label=runtime,
                    error_kw={"linewidth": 0.7},
                )
                axis.annotate(
                    f"{speed:.1f}",
                    (high, where),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=6,
                )
        axis.set_yticks(range(len(models)), [m.replace(" without", "\nwithout") for m in models])
        axis.set(
            xlabel="times as fast as HuBERT Base in torch eager",
            title=f"{number} thread{'s'[: number > 1]}",
        )
        axis.margins(x=0.1)
        axis.grid(axis="x", alpha=0.3)
    first = axes if len(threads) == 1 else axes[0]
    first.invert_yaxis()
    handles, labels = first.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    shown = [runtime for runtime in RUNTIMES if runtime in once]
    figure.legend(
        [once[runtime] for runtime in shown],
        shown,
        fontsize=8,
        loc="outside lower center",
        ncols=4,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
