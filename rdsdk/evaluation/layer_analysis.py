"""``rdsdk analyze layers``: a student's hidden states beside its teacher's, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from rdsdk.evaluation.figures import draw_layers
from rdsdk.evaluation.layer_similarity import (
    LinearCkaSum,
    ProjectionErrors,
    ProjectionErrorSum,
    same_depth,
)
from rdsdk.models.student import Student
from rdsdk.training.teachers import Teacher

FIGURE = "layers.png"


@dataclass(frozen=True)
class LayerAnalysis:
    """How near one student is to one teacher."""

    teacher: str
    student: str
    recordings: int
    frames: int
    cka: NDArray[np.float64]
    """(X, Y) student by teacher layers."""
    pairs: list[int]
    """For each student layer the teacher layer at the same depth."""
    projections: ProjectionErrors | None
    """Of the projection heads; None where there are none that fit the teacher."""

    def to_dict(self) -> dict[str, object]:
        """A JSON value; the heads' entries are null without heads."""
        heads = self.projections
        return {
            "teacher": self.teacher,
            "student": self.student,
            "recordings": self.recordings,
            "frames": self.frames,
            "cka": np.round(self.cka, 6).tolist(),
            "teacher_layer": self.pairs,
            "head_cosine": None if heads is None else np.round(heads.cosine, 6).tolist(),
            "head_mse": None if heads is None else np.round(heads.mse, 6).tolist(),
            "head_relative_mse": None
            if heads is None
            else np.round(heads.relative_mse, 6).tolist(),
        }

    def save(self, folder: Path) -> list[str]:
        """Write the figure; returns its name."""
        title = (
            f"{self.student} and its teacher {self.teacher}: {self.recordings} recordings, "
            f"{self.frames} frames"
        )
        draw_layers(folder / FIGURE, self.cka, self.pairs, self.projections, title)
        return [FIGURE]

    def report(self) -> list[Table | str]:
        """What is printed."""
        heads = self.projections
        title = f"{self.student} and its teacher {self.teacher}"
        table = Table(title=title, title_justify="left")
        for name in ("layer", "teacher layer", "CKA", "nearest", "CKA"):
            table.add_column(name, justify="right")
        for name in ("cosine", "MSE", "MSE / variance") if heads is not None else ():
            table.add_column(f"head: {name}", justify="right")
        for layer, pair in enumerate(self.pairs):
            nearest = int(self.cka[layer].argmax())
            row = [str(layer), str(pair), f"{self.cka[layer, pair]:.3f}", str(nearest)]
            row.append(f"{self.cka[layer, nearest]:.3f}")
            if heads is not None:
                values = (heads.cosine[layer], heads.mse[layer], heads.relative_mse[layer])
                row += [f"{value:.4f}" for value in values]
            table.add_row(*row)
        if heads is not None:
            return [table]
        return [table, "The student has no projection heads that fit this teacher's layers."]


def analyze_layers(
    teacher: Teacher,
    student: Student,
    student_name: str,
    recordings: Iterable[tuple[Tensor, Tensor]],
) -> LayerAnalysis:
    """Compare all layers over recordings, each (waveform (1, S), sample_counts (1,)), unmasked.

    Raises:
        DataError: fewer than two frames were heard.
    """
    depth, width = student.config.layers, student.config.width
    device = next(student.parameters()).device
    cka = LinearCkaSum(depth, width, teacher.layers, teacher.width, device)
    fits = student.projection_width == teacher.width and depth == teacher.layers
    errors = ProjectionErrorSum() if fits else None
    count = frames = 0
    for waveform, sample_counts in recordings:
        with torch.no_grad():
            output, _ = student(waveform, sample_counts=sample_counts)
            hidden = [h_btd[0] for h_btd in output.hidden]
            targets = [h_btd[0] for h_btd in teacher(waveform, sample_counts).unmasked]
            cka.add(hidden, targets)
            if errors is not None:
                errors.add(student.project(hidden), targets)
        count += 1
        frames += len(targets[0])
    return LayerAnalysis(
        teacher.name,
        student_name,
        count,
        frames,
        cka.result(),
        same_depth(depth, teacher.layers),
        None if errors is None else errors.result(),
    )
