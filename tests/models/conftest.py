"""Small students with attention that is not flat, so that a wrong map shows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rdsdk.models.config import EncoderConfig, preset
from rdsdk.models.student import Student

# Under --import-mode=importlib a test cannot import its neighbours without this.
sys.path.insert(0, str(Path(__file__).parent))


def sharpen(student: Student) -> Student:
    """Weights far above those of a fresh student, whose nearly flat attention and weak branches
    would hide mistakes."""
    for name, parameter in student.encoder.layers.named_parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(24.0 if ".attention_map." in name else 6.0)
    return student


@pytest.fixture
def make_student() -> Callable[..., Student]:
    def make(config: EncoderConfig | None = None, symbols: int | None = 7) -> Student:
        torch.manual_seed(1)
        return sharpen(Student(config or preset("tiny"), symbols=symbols)).eval()

    return make
