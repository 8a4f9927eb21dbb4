"""Dropout of whole channels: one draw for all frames of an utterance.

Dropout of single numbers draws one for each of B x T x D, which on a processor takes as long as the
layer itself; a channel that is silent for a whole utterance takes one for each of B x D (one mask
for all of a sequence, as Y. Gal and Z. Ghahramani 2016, arXiv 1512.05287, have it).

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelDropout(nn.Module):
    """In training, x (B, T, D) with a share of each utterance's channels zero in all frames, and
    the others larger by what that takes away; otherwise x."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_btd: Tensor) -> Tensor:
        return F.dropout1d(x_btd.transpose(1, 2), self.rate, self.training).transpose(1, 2)
