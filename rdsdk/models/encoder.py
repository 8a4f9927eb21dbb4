"""frames -> hidden states, with explicit state: ``hidden, state = encoder(frames, state)``.

One forward serves training, export and streaming. Offline is a call with ``state=None`` (fresh);
streaming is the same call, chunk after chunk, with the state that the last one returned.

Shapes: B batch, T frames, C extractor channels, D width, L left frames, K = L + T.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from rdsdk.models.attention import (
    AttentionMap,
    AttentionOutput,
    attention_mask,
    reuse_map,
    right_of_chunks,
)
from rdsdk.models.config import Context, EncoderConfig
from rdsdk.models.state import EncoderState, fresh_state


class PositionConv(nn.Module):
    """Relative position by a grouped convolution over frames (arXiv 2006.11477, section 2)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        kernel, width = config.position_kernel, config.width
        causal = config.position == "causal"
        # An even centred kernel reaches one frame further back than ahead, as published.
        self.padding = (0, 0) if causal else (kernel // 2, kernel - 1 - kernel // 2)
        self.conv = nn.Conv2d(width, width, (1, kernel), groups=config.position_groups)
        nn.init.normal_(self.conv.weight, std=(4 / (kernel * width)) ** 0.5)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        weight_norm(self.conv, dim=3)

    def forward(self, x_btd: Tensor, past: Tensor, again: int = 0) -> tuple[Tensor, Tensor]:
        """x (B, T, D), past (B, k-1, D) if causal else (B, 0, D) -> positions (B, T, D) and the
        next past, in front of the last ``again`` frames, which will be given again."""
        history = torch.cat([past, x_btd], dim=1)
        x_bd1t = F.pad(history.transpose(1, 2), self.padding).unsqueeze(2)
        end = history.shape[1] - again
        kept = history[:, end - past.shape[1] : end]
        return F.gelu(self.conv(x_bd1t)).squeeze(2).transpose(1, 2), kept


class EncoderLayer(nn.Module):
    """A post-norm transformer layer; ``attention_map`` is None in a layer that reuses one."""

    def __init__(self, config: EncoderConfig, owner: bool) -> None:
        super().__init__()
        self.attention_map = AttentionMap(config.width, config.heads) if owner else None
        self.attention_output = AttentionOutput(config.width, config.heads, config.dropout)
        self.attention_norm = nn.LayerNorm(config.width)
        self.ffn_in = nn.Linear(config.width, config.ffn)
        self.ffn_out = nn.Linear(config.ffn, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.dropout: nn.Module = nn.Dropout(config.dropout)
        # As the teachers were initialised (BERT's way). Larger weights let every branch drown its
        # residual, and after a few post-norm layers all frames look alike and stay so.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_btd: Tensor, map_ntk: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the next hidden state (B, T, D) and the values (N, K, d)."""
        mixed, values = self.attention_output(x_btd, map_ntk, past_values)
        x_btd = self.attention_norm(x_btd + self.dropout(mixed))
        widened = self.dropout(F.gelu(self.ffn_in(x_btd)))
        return self.ffn_norm(x_btd + self.dropout(self.ffn_out(widened))), values


class Encoder(nn.Module):
    """The student's transformer with attention maps that later layers reuse."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.convs[-1].channels
        self.frame_norm = nn.LayerNorm(channels)
        self.projection = (
            nn.Identity() if channels == config.width else nn.Linear(channels, config.width)
        )
        self.mask_embedding = nn.Parameter(torch.empty(config.width).uniform_())
        self.position_conv = PositionConv(config)
        self.position_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(config, owner == layer) for layer, owner in enumerate(config.map_owner)
        )

    def project(self, frames: Tensor) -> Tensor:
        """frames (B, T, C) -> (B, T, D): what is masked in training and enters the encoder."""
        return self.projection(self.frame_norm(frames))

    def fresh_state(self, batch: int = 1, like: Tensor | None = None) -> EncoderState:
        """The state before the first sample, for the configured context."""
        left_frames = self.config.context.left_frames if self.config.context else 0
        return fresh_state(self.config, batch, left_frames, like)

    def forward(
        self,
        frames: Tensor,
        state: EncoderState | None = None,
        *,
        frame_counts: Tensor | None = None,
        frame_mask: Tensor | None = None,
        context: Context | Literal["full", "configured"] = "configured",
        followed: bool = False,
    ) -> tuple[list[Tensor], EncoderState]:
        """frames (B, T, C) -> the hidden state (B, T, D) after each layer, and the next state.

        Args:
            frames: the extractor's output. When streaming, whole chunks and, if there is one, the
                right context of the last.
            state: what the call before returned; None means fresh.
            frame_counts: (B,) real frames of each row; later ones are padding and change nothing
                of what comes before them.
            frame_mask: (B, T) True where the mask embedding replaces the frame (masked training).
            context: ``"configured"`` as the architecture says; a streaming student is trained with
                others too (``"full"`` sees the whole recording, so it takes no state).
            followed: the last ``right_frames`` of the frames are the right context of the last
                chunk: they are read with it, give no hidden states, and come again in the next
                call. Otherwise nothing follows the last frame.
        """
        if context == "configured":
            context = self.config.context or "full"
        chunks = None if context == "full" else context
        left, right = (0, 0) if chunks is None else (chunks.left_frames, chunks.right_frames)
        beyond = right if followed else 0
        batch, heard = frames.shape[0], frames.shape[1]
        length = heard - beyond
        x_btd = self.project(frames)
        if frame_mask is not None:
            x_btd = torch.where(frame_mask[..., None], self.mask_embedding.to(x_btd.dtype), x_btd)
        if state is None:
            state = fresh_state(self.config, batch, left, x_btd)

        mask_ntk, valid_bk = None, None
        if chunks is not None or frame_counts is not None:
            real_bt = x_btd.new_ones(batch, heard)
            if frame_counts is not None:
                index = torch.arange(heard, device=frames.device)
                real_bt = (index < frame_counts[:, None]).to(x_btd.dtype)
                # Padding is silence to the position convolution too, as in the published models.
                x_btd = x_btd * real_bt[..., None]
            seen_bk = valid_bk = torch.cat([state.valid, real_bt[:, :length]], dim=1)
            if chunks is not None and right:
                behind = right_of_chunks(real_bt[..., None], chunks, beyond).squeeze(2)
                seen_bk = torch.cat([valid_bk, behind], dim=1)
            mask_btk = attention_mask(length, chunks, seen_bk)
            mask_ntk = mask_btk.repeat_interleave(self.config.heads, dim=0)

        positions, past = self.position_conv(x_btd, state.positions, beyond)
        x_btd = self.position_norm(x_btd + positions)
        if chunks is not None and right:
            # Read once for the chunk that they follow, in which nothing comes after them, and once
            # for their own: only so do several chunks at once hear what one by one do.
            x_btd = torch.cat([x_btd[:, :length], right_of_chunks(x_btd, chunks, beyond)], dim=1)
        x_btd = self.dropout(x_btd)

        hidden: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        maps: dict[int, Tensor] = {}
        reused: dict[int, Tensor] = {}
        for number, (owner, layer) in enumerate(
            zip(self.config.map_owner, self.layers, strict=True)
        ):
            assert isinstance(layer, EncoderLayer)
            if number == owner:
                assert layer.attention_map is not None
                maps[owner], layer_keys = layer.attention_map(
                    x_btd, state.keys[len(keys)], mask_ntk
                )
                map_ntk = maps[owner]
                keys.append(self._newest(layer_keys, left, length))
            else:
                if owner not in reused:
                    reused[owner] = reuse_map(maps[owner], mask_ntk, self.config.reused_map)
                map_ntk = reused[owner]
            x_btd, layer_values = layer(x_btd, map_ntk, state.values[number])
            values.append(self._newest(layer_values, left, length))
            hidden.append(x_btd[:, :length] if right else x_btd)

        valid = state.valid if valid_bk is None else valid_bk[:, valid_bk.shape[1] - left :]
        return hidden, EncoderState(past, torch.stack(keys), torch.stack(values), valid)

    def _newest(self, cache_nkd: Tensor, left_frames: int, frames: int) -> Tensor:
        """(N, K, d) -> (B, H, L, d): the newest of the remembered and new frames of a cache."""
        newest = cache_nkd[:, frames : frames + left_frames]
        return newest.unflatten(0, (-1, self.config.heads))
