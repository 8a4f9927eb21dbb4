"""The frozen teacher that a student learns from: per-layer hidden states, masked and unmasked.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, D teacher width, L transformer layers.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint


class TeacherOutput(NamedTuple):
    """What a teacher says about a batch."""

    unmasked: list[Tensor]
    """(B, T, D) after each transformer layer 1..L, of the unmasked input."""
    masked: list[Tensor] | None
    """The same of the masked input; None when no mask was given."""


class Teacher(nn.Module):
    """Frozen, in eval mode, without gradients."""

    name: str
    layers: int
    width: int
    heads: int

    @abstractmethod
    def forward(
        self, waveforms: Tensor, sample_counts: Tensor, frame_mask: Tensor | None = None
    ) -> TeacherOutput:
        """waveforms (B, S), sample_counts (B,), frame_mask (B, T) bool -> hidden states."""
        raise NotImplementedError


class _Checkpointed(Teacher):
    """A teacher of our own."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = checkpoint.load(folder).student.requires_grad_(False)
        config = self.model.config
        self.name = folder
        self.layers, self.width, self.heads = config.layers, config.width, config.heads

    def forward(
        self, waveforms: Tensor, sample_counts: Tensor, frame_mask: Tensor | None = None
    ) -> TeacherOutput:
        unmasked, _ = self.model(waveforms, sample_counts=sample_counts)
        if frame_mask is None:
            return TeacherOutput(unmasked.hidden, None)
        masked, _ = self.model(waveforms, sample_counts=sample_counts, frame_mask=frame_mask)
        return TeacherOutput(unmasked.hidden, masked.hidden)


def load_teacher(source: str) -> Teacher:
    """A teacher from a folder, a hub name, a torchaudio bundle or an rdsdk checkpoint folder."""
    if not (Path(source) / checkpoint.DESCRIPTION).is_file():
        raise ConfigError(f"no teacher can be loaded from {source!r}")
    return _Checkpointed(source).eval()
