"""Convolution over time, spelled as matrix products over windows of frames.

A window of k frames at stride s is a row, so the convolution is a linear layer over rows: one
rounding of activations a frame is then possible (int8), and no layout has to be turned. Blocks of
s frames are rows without a copy; what a window needs of the next block is one strided copy.

Shapes: B batch, L frames, I input channels, O output channels, k kernel, s stride.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import ConvLayer


def tap_groups(conv: ConvLayer, inputs: int) -> list[tuple[int, int]]:
    """The taps [first, end) that each product covers; their sum is the convolution.

    Copying whole windows into rows costs k I values a frame, adding another product's result some
    3 O: narrow inputs (samples) go into one product, wide ones into one a block of s frames.
    """
    if conv.kernel * inputs <= conv.channels:
        return [(0, conv.kernel)]
    edges = [*range(0, conv.kernel, conv.stride), conv.kernel]
    return list(pairwise(edges))


def windows(x_bli: Tensor, first: int, end: int, stride: int) -> Tensor:
    """Frames (B, L, I) -> rows (B, L // s, (end - first) I): taps [first, end) of every window.

    Past the end of the recording a window reads zeros. ``first`` is a multiple of the stride.
    """
    inputs, whole = x_bli.shape[2], x_bli.shape[1] // stride
    rest, extra = x_bli.shape[1] % stride, 0
    if rest and end > stride:
        x_bli, extra = F.pad(x_bli, (0, 0, 0, stride - rest)), 1
    elif rest:
        x_bli = x_bli[:, : whole * stride]
    blocks = x_bli.view(x_bli.shape[0], -1, stride * inputs)
    parts = []
    for tap in range(first, end, stride):
        ahead, width = tap // stride, min(stride, end - tap)
        if width == stride:
            part = blocks[:, ahead:] if ahead else blocks
        elif width == 1:
            part = x_bli[:, tap::stride]
        else:
            part = blocks[:, ahead:, : width * inputs]
        if ahead < extra:
            part = part[:, :whole]
        parts.append(F.pad(part, (0, 0, 0, ahead - extra)) if ahead > extra else part)
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def tap_matrix(weight_oi1k: Tensor, first: int, end: int) -> Tensor:
    """The weights of taps [first, end) as a matrix (O, (end - first) I) over rows of windows."""
    return weight_oi1k[:, :, 0, first:end].transpose(1, 2).flatten(1)


class FrameConv(nn.Module):
    """frames (B, L, I) -> frames (B, L // s, O).

    The last windows may reach past the end, where they read zeros; whoever stacks such
    convolutions drops or never uses the frames they give.

    Attributes:
        weight: (O, I, 1, k), as an image convolution of height one has it.
        bias: (O,) or None.
    """

    def __init__(self, inputs: int, conv: ConvLayer, bias: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.inputs = inputs
        self.weight = nn.Parameter(torch.empty(conv.channels, inputs, 1, conv.kernel))
        nn.init.kaiming_normal_(self.weight)
        self.bias: nn.Parameter | None = None
        if bias:
            bound = (inputs * conv.kernel) ** -0.5
            self.bias = nn.Parameter(torch.empty(conv.channels).uniform_(-bound, bound))

    def forward(self, x_bli: Tensor) -> Tensor:
        total, bias = None, self.bias
        for first, end in tap_groups(self.conv, self.inputs):
            rows = windows(x_bli, first, end, self.conv.stride)
            product = F.linear(rows, tap_matrix(self.weight, first, end), bias)
            total, bias = product if total is None else total + product, None
        assert total is not None
        return total
