"""The attention map: computed by an owner layer, applied by owner and reuse layers alike.

Section 3.2 of arXiv 2305.11685: a reuse layer has no queries and keys of its own; it applies the
map of an earlier layer to its own values.

Shapes: B batch, H heads, N = B H, T frames, K = L + T remembered and new frames, C frames of right
context, D width, d head width. Heads lie in the batch axis of plain three-dimensional products,
which mobile back ends run whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdsdk.models.config import Context, ReusedMap

MASKED = 1e4
"""Subtracted from the logits of unseen frames: finite, so that a row of padding gives no NaN."""


def attention_mask(frames: int, context: Context | None, valid_bk: Tensor) -> Tensor:
    """The additive mask (B, T + C, K + C) of chunk-wise attention over real frames; B, T, K of
    attention over all of them (None).

    Frame t of chunk c = t // chunk_frames sees frames [c chunk - left, (c + 1) chunk), counted from
    the first new frame, and of the C frames of right context (``right_of_chunks``), which come last
    and see what their chunk sees, those of its chunk; ``valid_bk`` (B, K + C) is 1 where a frame is
    real.
    """
    seen = valid_bk[:, None, :]
    if context is not None:
        chunk, left, right = context.chunk_frames, context.left_frames, context.right_frames
        query = torch.arange(frames, device=valid_bk.device)[:, None] // chunk
        key = torch.arange(left + frames, device=valid_bk.device)[None, :] - left
        if right:
            behind = torch.cat([query[::chunk]] * right, dim=1).flatten()
            query = torch.cat([query, behind[:, None]])
        inside = (key >= query * chunk - left) & (key < (query + 1) * chunk)
        if right:
            inside = torch.cat([inside, behind[None, :] == query], dim=1)
        seen = seen * inside.to(seen.dtype)
    return (seen - 1.0) * MASKED


def right_of_chunks(x_btd: Tensor, context: Context, again: int = 0) -> Tensor:
    """(B, T + again, D) -> (B, C, D): right of each chunk of the T frames, ``right_frames``; zeros
    where nothing follows."""
    chunk, right = context.chunk_frames, context.right_frames
    padded = F.pad(x_btd, (0, 0, 0, chunk + right))
    # Counted from the end, which no exporter needs to work out.
    ahead = [padded[:, chunk + k : k - right - again : chunk] for k in range(right)]
    return torch.stack(ahead, dim=2).flatten(1, 2)


def split_heads(x_btd: Tensor, heads: int) -> Tensor:
    """(B, T, D) -> (N, T, d)."""
    return x_btd.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)


def remember(past_bhld: Tensor, new_ntd: Tensor) -> Tensor:
    """Remembered and new frames of every head: (B, H, L, d), (N, T, d) -> (N, K, d)."""
    if past_bhld.shape[2] == 0:
        return new_ntd
    return torch.cat([past_bhld.flatten(0, 1), new_ntd], dim=1)


class AttentionMap(nn.Module):
    """Queries and keys of an owner layer: hidden -> map (N, T, K)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)

    def forward(
        self, x_btd: Tensor, past_keys: Tensor, mask_ntk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Also returns the keys (N, K, d), remembered ones first, for the next state."""
        queries = split_heads(self.query(x_btd) * self.scale, self.heads)
        keys = remember(past_keys, split_heads(self.key(x_btd), self.heads))
        logits = torch.bmm(queries, keys.transpose(1, 2))
        if mask_ntk is not None:
            logits = logits + mask_ntk
        return logits.softmax(dim=-1), keys


class AttentionOutput(nn.Module):
    """Values and output projection of any layer: (hidden, map) -> mixed hidden."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x_btd: Tensor, map_ntk: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (B, T, D) and the values (N, K, d), remembered ones first."""
        values = remember(past_values, split_heads(self.value(x_btd), self.heads))
        map_ntk = F.dropout(map_ntk, self.dropout, self.training)
        mixed = torch.bmm(map_ntk, values).unflatten(0, (-1, self.heads))
        return self.output(mixed.transpose(1, 2).flatten(2)), values


def reuse_map(map_ntk: Tensor, mask_ntk: Tensor | None, how: ReusedMap) -> Tensor:
    """What a reuse layer applies: the owner's map, or that map through a second softmax.

    The released ARMHuBERT code does the latter, which leaves nearly flat maps; published
    checkpoints were trained with it and need it for their published outputs.
    """
    if how == "as_is":
        return map_ntk
    return (map_ntk if mask_ntk is None else map_ntk + mask_ntk).softmax(dim=-1)
