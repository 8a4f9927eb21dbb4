"""Small students with attention that is not flat, so that a wrong map shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rdsdk.models.config import EncoderConfig, preset
from rdsdk.models.student import Student


def sharpen(student: Student, factor: float = 6.0) -> Student:
    """Larger query and key weights: random ones give flat attention, which hides mistakes."""
    for name, parameter in student.named_parameters():
        if ".attention_map." in name and name.endswith("weight"):
            parameter.data.mul_(factor)
    return student


@pytest.fixture
def make_student() -> Callable[..., Student]:
    def make(config: EncoderConfig | None = None, symbols: int | None = 7) -> Student:
        torch.manual_seed(1)
        return sharpen(Student(config or preset("tiny"), symbols=symbols)).eval()

    return make
