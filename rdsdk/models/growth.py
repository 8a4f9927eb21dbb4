"""Room for a student to learn more, which at first changes (nearly) nothing of what it says.

New weights are random where they read and zero where they write (function preserving growth;
T. Chen et al. 2016, Net2Net), so that learning goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from rdsdk.errors import ConfigError
from rdsdk.models.student import Student


def widened(student: Student, ffn: int) -> Student:
    """A copy with ``ffn`` units in each feed-forward, which says the same.

    Raises:
        ConfigError: that is fewer than it has.
    """
    config = student.config
    if ffn < config.ffn:
        raise ConfigError(f"ffn is {ffn}, expected at least the {config.ffn} that the student has")
    wider = Student(replace(config, ffn=ffn), student.symbols, student.projection_width)
    weights = wider.state_dict()
    with torch.no_grad():
        for name, old in student.state_dict().items():
            new = weights[name]
            if name.endswith("ffn_out.weight"):
                new.zero_()
            new[tuple(slice(size) for size in old.shape)] = old
    return wider


def with_lookahead(student: Student, frames: int) -> Student:
    """A copy whose causal position convolution looks ``frames`` ahead.

    Its kernel moves: the taps of the oldest frames go, those of the newest come and write nothing
    yet. It says nearly the same: what the oldest taps gave is missing.

    Raises:
        ConfigError: it looks further ahead already, or cannot look so far.
    """
    more = frames - student.config.lookahead_frames
    if more < 0:
        raise ConfigError(
            f"lookahead_frames is {frames}, expected at least the "
            f"{student.config.lookahead_frames} that the student has"
        )
    config = replace(student.config, lookahead_frames=frames)
    ahead = Student(config, student.symbols, student.projection_width)
    weights = student.state_dict()
    # Weight norm: a gain for each tap, and a direction that turns the slower the longer it is.
    gain, direction = (
        f"encoder.position_conv.conv.parametrizations.weight.original{part}" for part in (0, 1)
    )
    old = weights[direction]
    new_taps = old.std() * torch.randn_like(old[..., :more])
    weights[direction] = torch.cat([old[..., more:], new_taps], dim=-1)
    old = weights[gain]
    weights[gain] = torch.cat([old[..., more:], torch.zeros_like(old[..., :more])], dim=-1)
    ahead.load_state_dict(weights)
    return ahead
