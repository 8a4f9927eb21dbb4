"""The proof as a plot: a dot for each student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure


class Line(Protocol):
    """What is drawn of a line of the table."""

    @property
    def label(self) -> str: ...
    @property
    def frames(self) -> list[float]: ...
    @property
    def gaps(self) -> list[float]: ...


def draw_proof(path: Path, rows: Sequence[Line]) -> None:
    """Frames named wrongly, a line for each variant: the seeds as dots, their mean as a bar; in
    recordings with gaps as rings."""
    figure = Figure(figsize=(8, 0.8 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, line in enumerate(rows):
        for rates, fill in ((line.frames, "tab:blue"), (line.gaps, "none")):
            mean = sum(rates) / len(rates)
            axes.plot(rates, [at] * len(rates), "o", color="tab:blue", mfc=fill, alpha=0.6)
            axes.plot([mean, mean], [at - 0.3, at + 0.3], color="tab:red", linewidth=2)
            axes.annotate(
                f"{mean:.1f}",
                (mean, at - 0.3),
                fontsize=7,
                ha="center",
                va="bottom",
                color="tab:red",
            )
    axes.set_yticks(range(len(rows)), [line.label for line in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("frames of unseen speakers named wrongly, %\n(rings: in recordings with gaps)")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.08, y=0.06)
    figure.savefig(path, dpi=110)
