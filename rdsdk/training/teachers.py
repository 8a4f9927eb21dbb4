"""The frozen teacher that a student learns from: per-layer hidden states, masked and unmasked.

Shapes: B batch, S samples, T = (S - 80) // 320 frames, D teacher width, L transformer layers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from rdsdk.errors import ConfigError


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


def load_teacher(source: str) -> Teacher:
    """A teacher from a folder, a hub name, a torchaudio bundle or an rdsdk checkpoint folder."""
    raise ConfigError(f"no teacher can be loaded from {source!r}")
