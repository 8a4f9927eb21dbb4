"""Room for a student to learn more, which at first changes nothing of what it says.

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
