"""A student's convolutions as linear layers, so that they are quantised as those are, and the means
of its narrow norms as products, so that they are delegated.

The exporter's int8 is that of linear layers: one scale an output channel for the weights, one a row
for the activations, computed as they come. A row of a convolution is a window of frames, whatever
the chunk it arrived in, so streamed and offline outputs stay equal. XNNPACK's own dynamic int8
convolution has one scale a recording instead: less exact, and another one for each chunk size.

Shapes: B batch, L frames, T frames out, I input and O output channels, k kernel, s stride, D width,
G groups of c = D / G channels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.encoder import PositionConv
from rdsdk.models.extractor import TimeNorm
from rdsdk.models.frame_conv import FrameConv, tap_groups, tap_matrix, windows
from rdsdk.models.student import Student

LINEAR_TAPS = 16
"""Frames in a window of the position convolution: what is copied grows with them, what is added
shrinks with them; at 16 both cost the same for a kernel of 128."""
WIDEST_NORM = 256
"""Channels up to which a norm is spelled. ExecuTorch's kernel takes 2 ns a value below 256 channels
and 0.9 from there on, and cuts the delegate in two; spelled it is 1.0 to 1.2 ns at any width."""


def linear_of(matrix_oi: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of a given matrix."""
    made = nn.Linear(matrix_oi.shape[1], matrix_oi.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(matrix_oi.detach().clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made


class FrameProducts(nn.Module):
    """A ``FrameConv`` with a linear layer for each of its products."""

    def __init__(self, source: FrameConv) -> None:
        super().__init__()
        self.conv = source.conv
        self.groups = tap_groups(source.conv, source.inputs)
        self.linears = nn.ModuleList(
            linear_of(tap_matrix(source.weight, *taps), source.bias if index == 0 else None)
            for index, taps in enumerate(self.groups)
        )

    def forward(self, x_bli: Tensor) -> Tensor:
        total: Tensor | None = None
        for (first, end), linear in zip(self.groups, self.linears, strict=True):
            product = linear(windows(x_bli, first, end, self.conv.stride))
            total = product if total is None else total + product
        assert total is not None
        return total


class PositionProducts(nn.Module):
    """A ``PositionConv``, for a batch of one, with a linear layer for each of its groups.

    A kernel of k = w b taps: the layer takes a window of w frames of its group's channels to the
    shares of b outputs, w frames apart, and the shares are added. Windows that start p frames after
    a multiple of w lie together (phase p), which makes every copy and every shift a plain one.
    """

    def __init__(self, source: PositionConv) -> None:
        super().__init__()
        weight_dc1k, bias = source.conv.weight, source.conv.bias
        assert bias is not None
        self.groups, self.kernel = source.conv.groups, weight_dc1k.shape[3]
        self.taps = gcd(self.kernel, LINEAR_TAPS)
        self.padding = source.padding
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        # (D, c, k) -> for each group (b c_out, w c_in).
        width, channels = weight_dc1k.shape[:2]
        weight = weight_dc1k.detach().view(
            self.groups, -1, channels, self.kernel // self.taps, self.taps
        )
        self.linears = nn.ModuleList(
            linear_of(one.permute(2, 0, 3, 1).reshape(-1, self.taps * channels)) for one in weight
        )
        assert width == self.groups * channels

    def forward(self, x_btd: Tensor, past: Tensor, again: int = 0) -> tuple[Tensor, Tensor]:
        """As ``PositionConv``, for a batch of one."""
        taps, shares, length = self.taps, self.kernel // self.taps, x_btd.shape[1]
        history = torch.cat([past, x_btd], dim=1) if past.shape[1] else x_btd
        end = history.shape[1] - again
        kept = history[:, end - past.shape[1] : end]
        # At least T / w; rounded up this way because exporters know the quotient of a quotient.
        starts = length // taps + 1
        before, after = self.padding
        # Up to the last window of the last phase, in frames.
        padded = F.pad(history, (0, 0, before, after + taps))
        padded = padded[:, : taps * (starts + shares) - 1]
        frames_glc = padded.view(-1, self.groups, x_btd.shape[2] // self.groups).transpose(0, 1)
        rows = starts + shares - 1
        phases = torch.cat([frames_glc[:, p : p + taps * rows] for p in range(taps)], dim=1)
        windows_gri = phases.reshape(self.groups, taps * rows, -1)
        products = [linear(windows_gri[group]) for group, linear in enumerate(self.linears)]
        product = torch.stack(products).view(self.groups, taps, rows, shares, -1)
        # One share after the other: a cut of all of them first would copy them all, each time.
        total = product.select(3, 0)[:, :, :starts]
        for share in range(1, shares):
            total = total + product.select(3, share)[:, :, share : share + starts]
        positions = total.permute(2, 1, 0, 3).reshape(1, -1, x_btd.shape[2])[:, :length]
        return F.gelu(positions + self.bias), kept


class NormProducts(nn.Module):
    """A layer norm whose means are products with a row of ones, in float32 in every precision."""

    shares: Tensor

    def __init__(self, source: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = source.weight, source.bias, source.eps
        channels = source.normalized_shape[0]
        self.register_buffer("shares", torch.full((1, channels), 1 / channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - F.linear(x, self.shares)
        variance = F.linear(centred * centred, self.shares)
        return centred * (variance + self.epsilon).rsqrt() * self.weight + self.bias


def replace_modules(
    module: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]
) -> None:
    """Put what ``replacement`` makes of a module in its place, for all inside of ``module``; where
    it makes None, the module stays and those inside of it are asked for."""
    for name, child in module.named_children():
        made = replacement(child)
        if made is None:
            replace_modules(child, replacement)
        else:
            setattr(module, name, made)


def _narrow_norm(module: nn.Module) -> NormProducts | None:
    if isinstance(module, nn.LayerNorm) and module.normalized_shape[0] <= WIDEST_NORM:
        return NormProducts(module)
    return None


def with_products(student: Student, position: bool = True) -> Student:
    """Replace the convolutions of a student and its narrow norms, in place, by the same products.

    The first convolution stays under ``TimeNorm``, whose weights depend on the recording; the
    position convolution too unless ``position``.
    """
    replace_modules(student, _narrow_norm)
    extractor, encoder = student.extractor, student.encoder
    for index, (conv, norm) in enumerate(zip(extractor.convs, extractor.norms, strict=True)):
        assert isinstance(conv, FrameConv)
        if not isinstance(norm, TimeNorm):
            extractor.convs[index] = FrameProducts(conv)
    if position:
        encoder.position_conv = PositionProducts(encoder.position_conv)  # type: ignore[assignment]
    return student.eval()
