"""What an encoder remembers between two chunks: tensors only, so that it can be exported.

Shapes: B batch, k position kernel, D width, H heads, d head width, L left frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rdsdk.models.config import EncoderConfig


class EncoderState(NamedTuple):
    """The past of a stream. The fresh value is zeros everywhere: nothing heard, nothing valid."""

    positions: Tensor
    """(B, k - 1, D): the last inputs of the causal position convolution; length 0 if centred."""
    keys: Tensor
    """(owners, B, H, L, d): the last keys of each layer that computes an attention map."""
    values: Tensor
    """(layers, B, H, L, d): the last values of every layer."""
    valid: Tensor
    """(B, L): 1.0 where keys and values hold a real frame, 0.0 where nothing was heard yet."""


def state_shapes(config: EncoderConfig, batch: int, left_frames: int) -> dict[str, tuple[int, ...]]:
    """The shape of each field of an EncoderState, by name."""
    causal = config.position == "causal"
    history = config.position_kernel - 1 if causal else 0
    cache = (batch, config.heads, left_frames, config.head_width)
    return {
        "positions": (batch, history, config.width),
        "keys": (len(config.owners), *cache),
        "values": (config.layers, *cache),
        "valid": (batch, left_frames),
    }


def fresh_state(
    config: EncoderConfig, batch: int, left_frames: int, like: Tensor | None = None
) -> EncoderState:
    """The state before the first sample, on the device and in the dtype of ``like``."""
    dtype = torch.float32 if like is None else like.dtype
    device = None if like is None else like.device
    shapes = state_shapes(config, batch, left_frames)
    return EncoderState(
        **{name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
    )
