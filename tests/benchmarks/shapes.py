"""The models that are compared: HuBERT Base, two students with and without reuse, DistilHuBERT.

Their weights are random, the same in every process, and in every runtime: what a model costs does
not depend on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import (
    HOP_SAMPLES,
    OVERLAP_SAMPLES,
    SAMPLE_RATE,
    Context,
    ConvLayer,
    EncoderConfig,
    preset,
    reuse_pattern,
)
from rdsdk.models.cost import macs, student_shape
from rdsdk.models.student import Student
from tests.models.hubert_shape import hubert_like, student_of

_HUBERT_CONVS = (
    ConvLayer(512, 10, 5),
    *(ConvLayer(512, 3, 2) for _ in range(4)),
    *(ConvLayer(512, 2, 2) for _ in range(2)),
)
_HUBERT_BASE = EncoderConfig(_HUBERT_CONVS, 768, 3072, 12, reuse_pattern("none"))
_TINY = replace(preset("tiny"), context=None, position="centred", extractor_norm="group")


def without_reuse(config: EncoderConfig) -> EncoderConfig:
    """The same widths, but each layer computes a map of its own."""
    return replace(config, map_owner=tuple(range(config.layers)))


SHAPES: dict[str, EncoderConfig] = {
    "HuBERT Base": _HUBERT_BASE,
    # As published (arXiv 2110.01900): HuBERT's extractor, its first two layers.
    "DistilHuBERT": replace(_HUBERT_BASE, map_owner=reuse_pattern("none", 2)),
    "ARMHuBERT": preset("armhubert"),
    "ARMHuBERT without reuse": without_reuse(preset("armhubert")),
    "ARMHuBERT-S": preset("armhubert-s"),
    "ARMHuBERT-S without reuse": without_reuse(preset("armhubert-s")),
    # No contender: a minute shows that everything works.
    "tiny": _TINY,
    "tiny without reuse": without_reuse(_TINY),
}
FROM_TRANSFORMERS = ("HuBERT Base", "DistilHuBERT")
"""In torch and ONNX these are transformers' own HubertModel; in a ``.pte`` a student that equals it
(``tests/models/test_hubert_parity.py``), because that is what is exported."""
WITH_AND_WITHOUT = (
    ("ARMHuBERT", "ARMHuBERT without reuse"),
    ("ARMHuBERT-S", "ARMHuBERT-S without reuse"),
    ("tiny", "tiny without reuse"),
)
STREAMING = Context(chunk_frames=16, left_frames=128)


class LastHidden(nn.Module):
    """waveform (1, S) -> the last hidden state (1, T, D) alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor) -> Tensor:
        result: Any = self.model(waveform)
        hidden: Tensor = (
            result[0].hidden[-1] if isinstance(self.model, Student) else result.last_hidden_state
        )
        return hidden


def checkpoint(name: str, streaming: bool = False) -> Checkpoint:
    """What is exported."""
    config = SHAPES[name]
    if streaming:
        config = config.streaming(STREAMING)
    torch.manual_seed(0)
    if name in FROM_TRANSFORMERS:
        return Checkpoint(student_of(hubert_like(config), config))
    return Checkpoint(Student(config).eval())


def eager(name: str) -> LastHidden:
    """What torch runs, in float32, weight norm folded as in everything exported."""
    torch.manual_seed(0)
    config = SHAPES[name]
    model = hubert_like(config) if name in FROM_TRANSFORMERS else Student(config).eval()
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return LastHidden(model).requires_grad_(False).eval()


def sound_samples(seconds: float) -> int:
    """Samples of at least so much sound that are whole chunks to the streaming programs."""
    chunk = HOP_SAMPLES * STREAMING.chunk_frames
    return -(-round(seconds * SAMPLE_RATE) // chunk) * chunk + OVERLAP_SAMPLES


def total_macs(name: str, samples: int) -> int:
    """Multiply-accumulates of one pass."""
    return macs(student_shape(SHAPES[name]), samples).total
