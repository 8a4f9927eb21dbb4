"""Whole channels dropped in a student's layers; see ``rdsdk.models.channel_dropout``.

What a student knows by heart it knows by the details of a few channels.
"""

from __future__ import annotations

from rdsdk.errors import ConfigError
from rdsdk.models.channel_dropout import ChannelDropout
from rdsdk.models.encoder import EncoderLayer
from rdsdk.models.student import Student


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
