"""Named precisions: what each does to the weights and activations of a student.

``int8``: every linear layer and every convolution but the first (which reads samples) has int8
weights with one scale an output channel, and activations rounded to int8 with one scale a row,
computed as they come: a row is a frame, or a window of frames where a convolution was. Nothing is
calibrated, and nothing depends on how the sound was cut into chunks.

``int4``: the same with int4 weights, one scale for 32 inputs of a channel, wherever the inputs can
be divided so; int8 elsewhere (all of a layer 432 wide).

No fp16: the XNNPACK delegate takes no float16 GELU, so every one of them would be left outside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup

from mobile_export.products import with_products
from mobile_export.programs import folded
from rdsdk.errors import ExportError
from rdsdk.models.student import Student

INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 (torch's stubs lack it)
INT4_GROUP = 32
LEAST_INPUTS = 16
"""Of a quantised layer: below it there is nothing to save, and the first convolution (10 samples
wide) is where rounding would cost most."""


def round_to_int8(module: nn.Module) -> None:
    """Its linear layers that are still float32, in place."""
    _round_linears(module, torch.int8, PerAxis(0), LEAST_INPUTS, divisor=1)


def _int8(student: Student) -> None:
    with_products(student)
    round_to_int8(student)


def _int4(student: Student) -> None:
    with_products(student)
    _round_linears(student, INT4, PerGroup(INT4_GROUP), INT4_GROUP, divisor=INT4_GROUP)
    round_to_int8(student)


def _fp32(student: Student) -> None:
    """The reference: only spelled with weights that are constants to the exporter."""
    with_products(student, position=False)


def _round_linears(
    rounded: nn.Module,
    weights: torch.dtype,
    granularity: PerAxis | PerGroup,
    least_inputs: int,
    divisor: int,
) -> None:
    """Quantise the linear layers that are still float32 and have inputs enough, in place."""
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=weights, weight_granularity=granularity
    )

    def chosen(module: nn.Module, name: str) -> bool:
        return (
            isinstance(module, nn.Linear)
            and type(module.weight) is nn.Parameter
            and module.in_features >= least_inputs
            and module.in_features % divisor == 0
        )

    quantize_(rounded, config, chosen)


PRECISIONS: dict[str, Callable[[Student], None]] = {"fp32": _fp32, "int8": _int8, "int4": _int4}


def quantize(student: Student, precision: str) -> Student:
    """A copy of the student in a named precision, weight norm folded; the student is untouched.

    Raises:
        ExportError: the precision has no such name; the message lists them.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    quantized = folded(student.copy().requires_grad_(False))
    PRECISIONS[precision](quantized)
    return quantized


def most_weight_bytes(student: Student, precision: str) -> int:
    """What the weights of a student may take in a named precision, scales and small tensors too."""
    total = 0.0
    for name, weight in student.named_parameters():
        if name.startswith("projections."):
            continue
        inputs = weight[0].numel() if weight.ndim > 1 else 0
        rounded = precision != "fp32" and inputs >= LEAST_INPUTS
        # The scale of each channel, and its sum.
        total += weight.numel() + 8 * len(weight) if rounded else 4 * weight.numel()
    total += 4 * sum(buffer.numel() for buffer in student.buffers())
    # Windows of frames are wider than the kernels that they are for, and some layers stay float32.
    return round(1.6 * total) + 65_536
