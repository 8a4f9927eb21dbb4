"""Dropout of whole channels: one draw for all frames of an utterance.

What a student knows by heart it knows by the details of a few channels. Dropout of single numbers
draws one for each of B x T x D, which on a processor takes as long as the layer itself; a channel
that is silent for a whole utterance takes one for each of B x D (one mask for all of a sequence, as
Y. Gal and Z. Ghahramani 2016, arXiv 1512.05287, have it).

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.errors import ConfigError
from rdsdk.models.encoder import EncoderLayer
from rdsdk.models.student import Student


class ChannelDropout(nn.Module):
    """In training, x (B, T, D) with a share of each utterance's channels zero in all frames, and
    the others larger by what that takes away; otherwise x."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_btd: Tensor) -> Tensor:
        return F.dropout1d(x_btd.transpose(1, 2), self.rate, self.training).transpose(1, 2)


def drop_channels(student: Student, rate: float) -> None:
    """From now on each layer drops channels of what attention and the feed-forward add, and of the
    feed-forward's inside, in place of its architecture's dropout there. Weights, and what the
    student says when it does not train, stay as they are.

    Raises:
        ConfigError: the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ConfigError(f"channels are dropped at a rate in (0, 1), got {rate}")
    for layer in student.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        layer.dropout = ChannelDropout(rate)
