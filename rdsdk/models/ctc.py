"""hidden (B, T, D) -> log_probs (B, T, V): the recogniser's head (CTC, Graves et al. 2006)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CTCHead(nn.Module):
    """One linear layer and a log-softmax over the symbols, the blank among them."""

    def __init__(self, width: int, symbols: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, symbols)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (B, T, D) -> log_probs (B, T, V), float32."""
        return self.linear(self.dropout(hidden)).float().log_softmax(dim=-1)


def mean_log_probs(said: Sequence[Tensor]) -> Tensor:
    """What several say together: the mean of their log_probs (..., V), normalised, float32
    (G. Hinton et al. 2015, arXiv 1503.02531, section 3, of an ensemble)."""
    return torch.stack([each.float() for each in said]).mean(dim=0).log_softmax(dim=-1)
