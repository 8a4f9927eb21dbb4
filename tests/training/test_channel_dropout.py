"""Channels are silent for whole utterances, as often as asked, in training only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rdsdk.errors import ConfigError
from rdsdk.models.config import preset
from rdsdk.models.encoder import EncoderLayer
from rdsdk.models.student import Student
from rdsdk.training.channel_dropout import ChannelDropout, drop_channels

CONFIG = replace(preset("tiny"), dropout=0.0)
WAVEFORM = 0.1 * torch.randn(3, 6480, generator=torch.Generator().manual_seed(0))


def test_a_channel_is_silent_in_all_frames_or_in_none() -> None:
    torch.manual_seed(0)
    x_btd = torch.rand(8, 50, 400) + 1
    dropped = ChannelDropout(0.2)(x_btd)
    silent = dropped == 0
    assert torch.equal(silent, silent[:, :1].expand_as(silent))
    assert silent.float().mean().item() == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(dropped[~silent], x_btd[~silent] / 0.8)
    # Each utterance has its own, and what is expected of a channel stays.
    assert not torch.equal(silent[0], silent[1])
    assert dropped.mean().item() == pytest.approx(x_btd.mean().item(), rel=0.02)


def test_it_changes_training_alone() -> None:
    torch.manual_seed(1)
    student, plain = Student(CONFIG, symbols=5), Student(CONFIG, symbols=5)
    plain.load_state_dict(student.state_dict())
    drop_channels(student, 0.3)
    assert student.state_dict().keys() == plain.state_dict().keys()
    heard, expected = (s.eval()(WAVEFORM)[0].log_probs for s in (student, plain))
    assert torch.equal(heard, expected)
    learning, steady = (s.train()(WAVEFORM)[0].log_probs for s in (student, plain))
    assert torch.equal(steady, expected)
    assert (learning - expected).abs().max() > 1e-2
    # A copy of its weights, as validation and checkpoints make one, drops nothing.
    assert not any(isinstance(module, ChannelDropout) for module in student.copy().modules())


def test_every_layer_drops_what_it_adds_and_what_is_inside_its_feed_forward() -> None:
    student = Student(CONFIG)
    drop_channels(student, 0.5)
    seen: list[tuple[int, ...]] = []
    for layer in student.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        layer.dropout.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[2:]))
    student.train()(WAVEFORM)
    width, ffn = (CONFIG.width,), (CONFIG.ffn,)
    assert seen == [width, ffn, width] * CONFIG.layers


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="rate in"):
        drop_channels(Student(CONFIG), rate)
