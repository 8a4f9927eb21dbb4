"""The attention map: computed by an owner layer, applied by owner and reuse layers alike.

Section 3.2 of arXiv 2305.11685: a reuse layer has no queries and keys of its own; it applies the
map of an earlier layer to its own values.

Shapes: B batch, H heads, T frames, K = L + T remembered and new frames, D width, d head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import ReusedMap

MASKED = 1e4
"""Subtracted from the logits of unseen frames: finite, so that a row of padding gives no NaN."""


def attention_mask(
    frames: int,
    left_frames: int,
    chunk_frames: int | None,
    valid_bk: Tensor,
) -> Tensor:
    """The additive mask (B, T, K) of chunk-wise attention over real frames.

    Frame t of chunk c = t // chunk_frames sees frames [c chunk - left, (c + 1) chunk), counted from
    the first new frame, where ``valid_bk`` (B, K) is 1; ``chunk_frames=None`` sees all of them.
    """
    seen = valid_bk[:, None, :]
    if chunk_frames is not None:
        query = torch.arange(frames, device=valid_bk.device)[:, None]
        key = torch.arange(left_frames + frames, device=valid_bk.device)[None, :] - left_frames
        start = query // chunk_frames * chunk_frames
        inside = (key >= start - left_frames) & (key < start + chunk_frames)
        seen = seen * inside.to(seen.dtype)
    return (seen - 1.0) * MASKED


def split_heads(x_btd: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, d)."""
    return x_btd.unflatten(-1, (heads, -1)).transpose(1, 2)


class AttentionMap(nn.Module):
    """Queries and keys of an owner layer: hidden -> map (B, H, T, K)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        for linear in (self.query, self.key):
            nn.init.xavier_uniform_(linear.weight, gain=2**-0.5)

    def forward(
        self, x_btd: Tensor, past_keys: Tensor, mask_btk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Also returns the keys (B, H, K, d), remembered ones first, for the next state."""
        queries = split_heads(self.query(x_btd) * self.scale, self.heads)
        keys = torch.cat([past_keys, split_heads(self.key(x_btd), self.heads)], dim=2)
        logits = queries @ keys.transpose(-1, -2)
        if mask_btk is not None:
            logits = logits + mask_btk[:, None]
        return logits.softmax(dim=-1), keys


class AttentionOutput(nn.Module):
    """Values and output projection of any layer: (hidden, map) -> mixed hidden."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.value.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(
        self, x_btd: Tensor, map_bhtk: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (B, T, D) and the values (B, H, K, d), remembered ones first."""
        values = torch.cat([past_values, split_heads(self.value(x_btd), self.heads)], dim=2)
        map_bhtk = F.dropout(map_bhtk, self.dropout, self.training)
        mixed = (map_bhtk @ values).transpose(1, 2).flatten(2)
        return self.output(mixed), values


def reuse_map(map_bhtk: Tensor, mask_btk: Tensor | None, how: ReusedMap) -> Tensor:
    """What a reuse layer applies: the owner's map, or that map through a second softmax.

    The released ARMHuBERT code does the latter, which leaves nearly flat maps; published
    checkpoints were trained with it and need it for their published outputs.
    """
    if how == "as_is":
        return map_bhtk
    return (map_bhtk if mask_btk is None else map_bhtk + mask_btk[:, None]).softmax(dim=-1)
