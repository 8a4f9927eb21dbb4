"""Attention maps of a frozen model, computed again from what enters each attention layer.

Fast attention kernels never form the map, and transformers averages WavLM's over the heads; so the
map is made here, from the layer's own projections.

Shapes: B batch, T frames, D width, H heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attention_map(
    queries: Tensor,
    keys: Tensor,
    heads: int,
    frame_counts: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) over the real frames of each row.

    Args:
        queries, keys: (B, T, D) projections.
        frame_counts: (B,) at least 1; later frames get no weight. None: all frames are real.
        bias: (B, H, T, T) added to the logits.

    Returns:
        (B, H, T, T) float32.
    """
    q_bhtd = _split(queries, heads).float()
    k_bhtd = _split(keys, heads).float()
    # The logits in full precision: bfloat16 would move the weights by percents.
    with torch.autocast(queries.device.type, enabled=False):
        logits = (q_bhtd * q_bhtd.shape[-1] ** -0.5) @ k_bhtd.transpose(-1, -2)
        if bias is not None:
            logits = logits + bias.float()
        if frame_counts is not None:
            hidden = torch.arange(keys.shape[1], device=keys.device) >= frame_counts[:, None]
            logits = logits.masked_fill(hidden[:, None, None], float("-inf"))
        return logits.softmax(dim=-1)


def gated_bias(x_btd: Tensor, attention: nn.Module, bias_bhtt: Tensor) -> Tensor:
    """WavLM's relative position bias (B, H, T, T), gated by what the frame holds.

    Equation 4 to 6 of arXiv 2110.13900. ``attention`` has ``gru_rel_pos_linear`` (d -> 8) and
    ``gru_rel_pos_const`` (1, H, 1, 1), as in transformers and torchaudio alike.
    """
    linear, constant = attention.gru_rel_pos_linear, attention.gru_rel_pos_const
    assert isinstance(linear, nn.Module)
    assert isinstance(constant, Tensor)
    x_bhtd = _split(x_btd, bias_bhtt.shape[1])
    update, reset = linear(x_bhtd).unflatten(-1, (2, 4)).sum(-1).sigmoid().unbind(-1)
    gate = update * (reset * constant.squeeze(-1) - 1.0) + 2.0
    return gate[..., None] * bias_bhtt


def _split(x_btd: Tensor, heads: int) -> Tensor:
    return x_btd.unflatten(-1, (heads, -1)).transpose(1, 2)
