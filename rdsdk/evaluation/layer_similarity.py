"""How near a student's layers come to its teacher's, over all frames of a corpus.

Linear CKA (arXiv 1905.00414, section 3) compares spaces of any two widths and ignores rotation and
scale: 1 is the same space. Where the student has projection heads, what they predict is compared
with the teacher's hidden states themselves, as the distillation loss does.

Shapes: X student layers of width D, Y teacher layers of width E, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdsdk.errors import DataError


class LinearCkaSum:
    """Adds up what linear CKA needs, so that any number of frames fits.

    Args:
        student_layers, student_width, teacher_layers, teacher_width: X, D, Y, E.
        device: where it adds, in float64.
    """

    def __init__(
        self,
        student_layers: int,
        student_width: int,
        teacher_layers: int,
        teacher_width: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._student = (student_layers, student_width)
        self._teacher = (teacher_layers, teacher_width)
        wide, broad = student_layers * student_width, teacher_layers * teacher_width

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._x, self._y, self._xy = zeros(wide), zeros(broad), zeros(wide, broad)
        self._xx = zeros(student_layers, student_width, student_width)
        self._yy = zeros(teacher_layers, teacher_width, teacher_width)
        self._frames = 0

    def add(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Add the frames of one recording: (T, D) and (T, E) a layer, no padding."""
        x_xtd = torch.stack(list(student)).double()
        y_yte = torch.stack(list(teacher)).double()
        x_tw = x_xtd.transpose(0, 1).flatten(1)
        y_tw = y_yte.transpose(0, 1).flatten(1)
        self._x += x_tw.sum(0)
        self._y += y_tw.sum(0)
        self._xy.addmm_(x_tw.T, y_tw)
        self._xx.baddbmm_(x_xtd.transpose(1, 2), x_xtd)
        self._yy.baddbmm_(y_yte.transpose(1, 2), y_yte)
        self._frames += len(x_tw)

    def result(self) -> NDArray[np.float64]:
        """(X, Y) linear CKA of every student layer with every teacher layer.

        Raises:
            DataError: fewer than two frames were added.
        """
        if self._frames < 2:
            raise DataError("fewer than two frames were heard; there is nothing to compare")
        mean_x, mean_y = self._x / self._frames, self._y / self._frames
        cross = self._xy - self._frames * torch.outer(mean_x, mean_y)
        # (X D, Y E) -> the squared Frobenius norm of each pair of layers' block.
        blocks = cross.reshape(*self._student, *self._teacher)
        shared = torch.einsum("xdye,xdye->xy", blocks, blocks)
        own = [
            (square - self._frames * mean[:, :, None] * mean[:, None, :]).square().sum((1, 2))
            for square, mean in (
                (self._xx, mean_x.reshape(self._student)),
                (self._yy, mean_y.reshape(self._teacher)),
            )
        ]
        scale = (own[0][:, None] * own[1][None]).sqrt()
        # A layer that says the same for every frame is like no other.
        return torch.where(scale > 0, shared / scale, 0.0).cpu().numpy()


@dataclass(frozen=True)
class ProjectionErrors:
    """Each projection head against the teacher's layer of the same number; means over frames."""

    cosine: NDArray[np.float64]
    """(X,) of the predicted and the teacher's hidden state."""
    mse: NDArray[np.float64]
    """(X,) squared error, mean over channels."""
    relative_mse: NDArray[np.float64]
    """(X,) over the teacher's variance: 1 is no better than the teacher's mean."""


class ProjectionErrorSum:
    """Adds recordings up; each counts by its frames."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._frames = 0

    def add(self, predicted: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Add one recording: (T, E) a layer, no padding."""
        p_xte = torch.stack(list(predicted)).double()
        y_xte = torch.stack(list(teacher)).double()
        sums = [
            F.cosine_similarity(p_xte, y_xte, dim=-1).sum(1),
            (p_xte - y_xte).square().mean(-1).sum(1),
            y_xte.sum(1),
            y_xte.square().sum(1),
        ]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._frames += p_xte.shape[1]

    def result(self) -> ProjectionErrors:
        """The means over all frames.

        Raises:
            DataError: nothing was added.
        """
        if not self._frames:
            raise DataError("no frame was heard; there is nothing to compare")
        cosine, error, total, square = [(s / self._frames).cpu().numpy() for s in self._sums]
        variance = (square - total**2).mean(-1)
        return ProjectionErrors(cosine, error, error / np.maximum(variance, 1e-20))


def same_depth(student_layers: int, teacher_layers: int) -> list[int]:
    """For each student layer, from 0, the teacher layer at the same share of the depth."""
    return [
        round((layer + 1) * teacher_layers / student_layers) - 1 for layer in range(student_layers)
    ]
