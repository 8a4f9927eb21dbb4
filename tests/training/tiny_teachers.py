"""Tiny random HuBERT, WavLM and wav2vec 2.0 models whose attention is not flat, and a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

FAMILIES = {
    "hubert": (HubertModel, HubertConfig),
    "wavlm": (WavLMModel, WavLMConfig),
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config),
}

SHARPER = 40.0
"""Random attention is nearly flat and would hide a wrong map."""


def tiny(family: str, large: bool, **changes: Any) -> Any:
    """A model of three layers; ``large``: layer-norm extractor and pre-norm layers."""
    torch.manual_seed(5)
    model_class, config_class = FAMILIES[family]
    settings: dict[str, Any] = {
        "conv_dim": [12] * 7,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer" if large else "group",
        "conv_bias": large,
        "do_stable_layer_norm": large,
    }
    model = model_class(config_class(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".q_proj.weight" in name or ".k_proj.weight" in name:
                parameter.mul_(SHARPER)
            elif "gru_rel_pos" in name or "rel_attn_embed" in name:
                # Fresh ones are all alike, and the gate constant is 1.
                parameter.add_(torch.randn_like(parameter))
            elif parameter.ndim == 1:
                # Nor should norms do nothing, or biases be zero.
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(counts: tuple[int, ...] = (16_000, 9_000)) -> tuple[Tensor, Tensor]:
    """Noise with an offset, (B, S) and its counts (B,), zero beyond them."""
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(len(counts), max(counts), generator=generator) + 0.02
    for row, count in enumerate(counts):
        waveforms[row, count:] = 0
    return waveforms, torch.tensor(counts)


def every_other_span(counts: Tensor) -> Tensor:
    """A frame mask (B, T) for the counts: five frames masked, five not, the next row shifted."""
    frames = (int(counts.max()) - 80) // 320
    index = torch.arange(frames) + 3 * torch.arange(len(counts))[:, None]
    return index // 5 % 2 == 0
