"""The methods of an artefact: wrappers that only rename, example inputs, dynamic shapes, card.

Shapes: S samples, T = (S - 80) // 320 frames, V symbols, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrize

from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import (
    HOP_SAMPLES,
    OVERLAP_SAMPLES,
    RECEPTIVE_FIELD_SAMPLES,
    SAMPLE_RATE,
    EncoderConfig,
)
from rdsdk.models.state import EncoderState, state_shapes
from rdsdk.models.student import Student

CARD_VERSION = 1
STREAMING_MAX_SECONDS = 10.3
FULL_CONTEXT_MAX_SAMPLES = 30 * SAMPLE_RATE
EXAMPLE_FRAMES = 200
FULL_CONTEXT_MIN_SAMPLES = SAMPLE_RATE // 4
"""Below some frames the exporter cannot prove that the time axis is not of length one."""


class Forward(nn.Module):
    """(waveform (1, S), *state) -> (log_probs (1, T, V) if any, hidden (1, T, D), *state)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, waveform: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, following = self.student(waveform, EncoderState(*state) if state else None)
        results = (output.hidden[-1], *(following if state else ()))
        return results if output.log_probs is None else (output.log_probs, *results)


@dataclass(frozen=True)
class Method:
    """One method, ready to be lowered."""

    module: nn.Module
    example: tuple[Tensor, ...]
    dynamic_shapes: tuple[Any, ...] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    min_samples: int
    max_samples: int


def folded(student: Student) -> Student:
    """Weight norm folded into its weight, in place: same function, no norm in every call."""
    for module in list(student.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return student


def chunk_samples(config: EncoderConfig, chunks: int) -> int:
    """Samples of ``chunks`` whole chunks and the overlap after them."""
    assert config.context is not None
    return HOP_SAMPLES * config.context.chunk_frames * chunks + OVERLAP_SAMPLES


def methods(student: Student) -> dict[str, Method]:
    """The methods of a student's artefact, by name.

    ``forward`` takes any length; a streaming student's takes whole chunks and the state, as many
    chunks as fit into ten seconds. ``step`` is the same for exactly one chunk: nothing in it
    depends on a length, so it is planned with far less memory. Weights are stored once.
    """
    config = student.config
    outputs = (*(("log_probs",) if student.ctc_head is not None else ()), "hidden")
    if config.context is None:
        # AUTO: of a named one the exporter cannot prove that it never gives a single frame.
        samples = Dim.AUTO(min=FULL_CONTEXT_MIN_SAMPLES, max=FULL_CONTEXT_MAX_SAMPLES)
        forward = Method(
            module=Forward(student),
            example=(torch.zeros(1, HOP_SAMPLES * EXAMPLE_FRAMES + OVERLAP_SAMPLES + 7),),
            dynamic_shapes=({1: samples},),
            inputs=("waveform",),
            outputs=outputs,
            min_samples=FULL_CONTEXT_MIN_SAMPLES,
            max_samples=FULL_CONTEXT_MAX_SAMPLES,
        )
        return {"forward": forward}
    chunk_seconds = config.context.chunk_frames * HOP_SAMPLES / SAMPLE_RATE
    most = max(1, int(STREAMING_MAX_SECONDS / chunk_seconds))
    example_chunks = min(most, -(-EXAMPLE_FRAMES // config.context.chunk_frames))
    state = student.encoder.fresh_state()
    chunks = Dim("chunks", min=1, max=most)
    samples = HOP_SAMPLES * config.context.chunk_frames * chunks + OVERLAP_SAMPLES
    forward = Method(
        module=Forward(student),
        example=(torch.zeros(1, chunk_samples(config, example_chunks)), *state),
        dynamic_shapes=({1: samples}, tuple({} for _ in state)),
        inputs=("waveform", *state._fields),
        outputs=(*outputs, *state._fields),
        min_samples=chunk_samples(config, 1),
        max_samples=chunk_samples(config, most),
    )
    step = replace(
        forward,
        example=(torch.zeros(1, chunk_samples(config, 1)), *state),
        dynamic_shapes=None,
        max_samples=chunk_samples(config, 1),
    )
    return {"forward": forward, "step": step}


def card(
    checkpoint: Checkpoint,
    methods: Mapping[str, Method],
    name: str,
    precision: str,
    measured: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The artefact's description of itself, a JSON value."""
    student, provenance = checkpoint.student, checkpoint.provenance
    config = student.config
    if config.context is None:
        lookahead_samples = methods["forward"].max_samples
        state: dict[str, tuple[int, ...]] = {}
    else:
        lookahead_samples = (config.context.chunk_frames - 1) * HOP_SAMPLES
        state = state_shapes(config, 1, config.context.left_frames)
    data = provenance.get("training_data", [])
    return {
        "format": "rdsdk",
        "version": CARD_VERSION,
        "name": name,
        "language": str(provenance.get("language", "und")),
        "task": "features" if checkpoint.vocabulary is None else "ctc",
        "architecture": config.to_dict(),
        "parameters": student.parameter_count(),
        "vocabulary": None if checkpoint.vocabulary is None else checkpoint.vocabulary.to_dict(),
        "sample_rate": SAMPLE_RATE,
        "hop_samples": HOP_SAMPLES,
        "receptive_field_samples": RECEPTIVE_FIELD_SAMPLES,
        "context": None
        if config.context is None
        else {
            "chunk_frames": config.context.chunk_frames,
            "left_frames": config.context.left_frames,
        },
        "lookahead_seconds": lookahead_samples / SAMPLE_RATE,
        "precision": precision,
        "methods": {
            method_name: {
                "inputs": list(method.inputs),
                "outputs": list(method.outputs),
                "min_samples": method.min_samples,
                "max_samples": method.max_samples,
            }
            for method_name, method in methods.items()
        },
        "state": [{"name": key, "shape": list(shape)} for key, shape in state.items()],
        "hidden_layers": [config.layers],
        "licence": str(provenance.get("licence", "unknown")),
        "training_data": [str(item) for item in data] if isinstance(data, list) else [],
        "measured": measured or {},
        "rdsdk_version": version("rdsdk"),
    }
