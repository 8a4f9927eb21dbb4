"""Named precisions: what each does to the weights and activations of a student.

int8 is dynamic per-channel quantisation of the linear layers: weights int8 with one scale an output
channel, activations int8 with one scale a frame, computed as they come. Convolutions and
normalisations stay in float32 (they are where random trials lost most accuracy).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerAxis

from mobile_export.products import with_products
from rdsdk.errors import ExportError
from rdsdk.models.student import Student


def _int8(student: Student) -> None:
    with_products(student)
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int8, weight_granularity=PerAxis(0)
    )
    quantize_(student, config, lambda module, name: isinstance(module, nn.Linear))


def _fp32(student: Student) -> None:
    """The reference: only spelled with weights that are constants to the exporter."""
    with_products(student, position=False)


PRECISIONS: dict[str, Callable[[Student], None]] = {"fp32": _fp32, "int8": _int8}


def quantize(student: Student, precision: str) -> Student:
    """A copy of the student in a named precision; the student itself is untouched.

    Raises:
        ExportError: the precision has no such name; the message lists them.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    quantized = student.copy().requires_grad_(False)
    PRECISIONS[precision](quantized)
    return quantized
