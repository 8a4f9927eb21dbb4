"""Figures as PNG files, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rdsdk.evaluation.attention_maps import MapSimilarity, ReusePattern
from rdsdk.evaluation.layer_similarity import ProjectionErrors

DOTS_PER_INCH = 120
_CELL_NUMBERS_UP_TO = 12
"""Layers up to which each cell shows its number."""


def draw_attention(
    path: Path, similarity: MapSimilarity, outlined: ReusePattern | None, title: str
) -> None:
    """Heat maps of layers (cosine, KL) and of all heads (cosine); ``outlined`` is drawn on them."""
    figure = Figure(figsize=(19, 6.4), layout="constrained")
    figure.suptitle(title)
    layers, by_kl, by_head = figure.subplots(1, 3)
    _heat_map(figure, layers, similarity.layer_cosine, "cosine", 0.0, 1.0, "viridis")
    boxes = "" if outlined is None else f"; boxes: {outlined.name}"
    layers.set_title(f"cosine of layers, heads paired{boxes}")
    _heat_map(figure, by_kl, similarity.layer_kl, "nats", 0.0, None, "magma_r", ".2g")
    by_kl.set_title("KL(layer's own map || owner's map)")
    for axes in (layers, by_kl):
        axes.set_ylabel("layer that reuses")
        axes.set_xlabel("layer that owns the map")
        map_owner = () if outlined is None else outlined.map_owner
        for owner in sorted(set(map_owner)):
            size = map_owner.count(owner)
            box = Rectangle((owner - 0.5, owner - 0.5), size, size, fill=False, color="tab:red")
            box.set_linewidth(2)
            axes.add_patch(box)
    count, heads = similarity.cosine.shape[:2]
    square = similarity.cosine.reshape(count * heads, count * heads)
    shown = by_head.imshow(square, vmin=0.0, vmax=1.0, cmap="viridis", interpolation="nearest")
    figure.colorbar(shown, ax=by_head, label="cosine", shrink=0.8)
    by_head.set_title("cosine of all heads, layer by layer")
    middles = [heads * (layer + 0.5) - 0.5 for layer in range(count)]
    for set_ticks in (by_head.set_xticks, by_head.set_yticks):
        set_ticks(middles, [str(layer) for layer in range(count)])
    for layer in range(1, count):
        by_head.axhline(heads * layer - 0.5, color="white", linewidth=0.4)
        by_head.axvline(heads * layer - 0.5, color="white", linewidth=0.4)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def draw_layers(
    path: Path,
    cka: NDArray[np.float64],
    pairs: Sequence[int],
    projections: ProjectionErrors | None,
    title: str,
) -> None:
    """Curves over the student's layers, and the CKA of all pairs of layers as a heat map.

    Args:
        path: the PNG.
        cka: (X, Y) student by teacher.
        pairs: for each student layer the teacher layer of the CKA curve.
        projections: of the student's heads, if it has them.
        title: above it all.
    """
    panels = 2 if projections is None else 3
    figure = Figure(figsize=(6.4 * panels, 5.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, panels)
    student = np.arange(len(cka))
    axes[0].plot(student, cka[student, list(pairs)], marker="o", label="CKA at the same depth")
    axes[0].plot(student, cka.max(axis=1), marker=".", linestyle=":", label="CKA, nearest layer")
    axes[0].set_ylabel("similarity to the teacher")
    if projections is not None:
        axes[0].plot(student, projections.cosine, marker="s", linestyle="--", label="heads: cosine")
        axes[1].plot(student, projections.relative_mse, marker="s", color="tab:red")
        axes[1].set_ylabel("heads: MSE over the teacher's variance")
        axes[1].set_ylim(bottom=0.0)
    for curve in axes[:-1]:
        curve.set_xticks(student)
        curve.set_xlabel("student layer")
        curve.grid(alpha=0.3)
    axes[0].set_ylim(min(0.0, axes[0].get_ylim()[0]), 1.02)
    axes[0].legend()
    _heat_map(figure, axes[-1], cka, "linear CKA", 0.0, 1.0, "viridis")
    axes[-1].set_ylabel("student layer")
    axes[-1].set_xlabel("teacher layer")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def draw_layer_weights(
    path: Path, names: Sequence[str], weights: Sequence[float], title: str
) -> None:
    """Bars of how much a probe took of each layer; a line says what an even mixture would take."""
    figure = Figure(figsize=(max(5.0, 1.5 + 0.5 * len(weights)), 4.0), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(weights)), weights)
    axes.axhline(1 / len(weights), color="tab:red", linestyle="--", linewidth=1, label="even")
    axes.set_xticks(range(len(weights)), names)
    axes.set_xlabel("layer")
    axes.set_ylabel("weight in the mixture")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend()
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _heat_map(
    figure: Figure,
    axes: Axes,
    values: NDArray[np.float64],
    label: str,
    low: float,
    high: float | None,
    colours: str,
    digits: str = ".2f",
) -> None:
    shown = axes.imshow(values, vmin=low, vmax=high, cmap=colours)
    figure.colorbar(shown, ax=axes, label=label, shrink=0.8)
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))
    if max(values.shape) > _CELL_NUMBERS_UP_TO:
        return
    for row, column in np.ndindex(values.shape):
        red, green, blue, _ = shown.cmap(shown.norm(values[row, column]))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(
            column,
            row,
            f"{values[row, column]:{digits}}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
