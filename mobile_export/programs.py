"""The methods of an artefact: wrappers that only rename, example inputs, dynamic shapes, card.

Shapes: S samples, T = (S - 80) // 320 frames, V symbols, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrize

from rdsdk.errors import ExportError
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
# The architecture is compared as such: a card may lack what was added to it later.
_OWN_FIELDS = {"architecture", "name", "measured", "search", "verification", "rdsdk_version"}
METHODS = ("forward", "step", "features")
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
        streaming = EncoderState(*state) if state else None
        output, following = self.student(waveform, streaming, followed=streaming is not None)
        results = (output.hidden[-1], *(following if state else ()))
        return results if output.log_probs is None else (output.log_probs, *results)


class Features(nn.Module):
    """(waveform (1, S), *state) -> (hidden (1, T, D) of each chosen layer, *state)."""

    def __init__(self, student: Student, layers: Sequence[int]) -> None:
        super().__init__()
        # Not the student: the weights of its head would be stored again, read by nothing.
        self.extractor, self.energies = student.extractor, student.energies
        self.encoder = student.encoder
        self.layers = tuple(layers)

    def forward(self, waveform: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        streaming = EncoderState(*state) if state else None
        frames = self.extractor(waveform)
        if self.energies is not None:
            frames = frames + self.energies(waveform)
        hidden, following = self.encoder(frames, streaming, followed=streaming is not None)
        chosen = (hidden[layer - 1] for layer in self.layers)
        return (*chosen, *(following if state else ()))


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
    """Weight norm folded into its weight and the heads of distillation left out, in place.

    The same function, without a norm in every call and weights that no method reads.
    """
    student.projections = None
    for module in list(student.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return student


def exported_parameters(student: Student) -> int:
    """The parameters that an artefact holds: without the projection heads of distillation."""
    heads = [] if student.projections is None else student.projections.parameters()
    return student.parameter_count() - sum(parameter.numel() for parameter in heads)


def require_memory(config: EncoderConfig) -> None:
    """A stream remembers something: runtimes take no tensors without values.

    Raises:
        ExportError: the context has no left frames.
    """
    if config.context is not None and config.context.left_frames < 1:
        raise ExportError(
            "an artefact needs left_frames of 1 or more, got 0; export it with --left-frames N"
        )


def chunk_samples(config: EncoderConfig, chunks: int) -> int:
    """Samples of ``chunks`` whole chunks and the overlap after them."""
    assert config.context is not None
    return HOP_SAMPLES * config.context.chunk_frames * chunks + config.overlap_samples


def methods(
    student: Student, names: Sequence[str] | None = None, layers: Sequence[int] = ()
) -> dict[str, Method]:
    """The methods of a student's artefact, by name.

    ``forward`` takes any length; a streaming student's takes whole chunks and the state, as many
    chunks as fit into ten seconds. ``step`` is the same for exactly one chunk: nothing in it
    depends on a length, so it is planned with far less memory. ``features`` takes what ``forward``
    takes and gives the hidden states of ``layers`` and of the last one. Weights are stored once.

    Args:
        student: folded and in the precision to be lowered.
        names: which methods; None is forward, and step if the student streams.
        layers: for ``features``, numbers from 1; more than the last layer needs that method.

    Raises:
        ExportError: a method or layer that this student cannot have; names those it can.
    """
    config = student.config
    require_memory(config)
    chosen = _method_names(config, names)
    hidden_layers = _hidden_layers(config, chosen, layers)
    state = () if config.context is None else tuple(student.encoder.fresh_state())
    state_names = EncoderState._fields if state else ()
    heads = (*(("log_probs",) if student.ctc_head is not None else ()), "hidden")
    example, dynamic_shapes, least, most = _lengths(config)
    forward = Method(
        module=Forward(student),
        example=(torch.zeros(1, example), *state),
        dynamic_shapes=dynamic_shapes,
        inputs=("waveform", *state_names),
        outputs=(*heads, *state_names),
        min_samples=least,
        max_samples=most,
    )
    made = {"forward": forward}
    if "step" in chosen:
        made["step"] = replace(
            forward,
            example=(torch.zeros(1, least), *state),
            dynamic_shapes=None,
            max_samples=least,
        )
    if "features" in chosen:
        made["features"] = replace(
            forward,
            module=Features(student, hidden_layers),
            outputs=(*(f"hidden_{layer}" for layer in hidden_layers), *state_names),
        )
    return made


def _lengths(config: EncoderConfig) -> tuple[int, tuple[Any, ...] | None, int, int]:
    """Samples of the example, the dynamic shapes (None: there are none), fewest and most samples of
    a call."""
    if config.context is None:
        # AUTO: of a named one the exporter cannot prove that it never gives a single frame.
        samples = Dim.AUTO(min=FULL_CONTEXT_MIN_SAMPLES, max=FULL_CONTEXT_MAX_SAMPLES)
        example = HOP_SAMPLES * EXAMPLE_FRAMES + OVERLAP_SAMPLES + 7
        return example, ({1: samples},), FULL_CONTEXT_MIN_SAMPLES, FULL_CONTEXT_MAX_SAMPLES
    chunk_frames = config.context.chunk_frames
    most = max(1, int(STREAMING_MAX_SECONDS / (chunk_frames * HOP_SAMPLES / SAMPLE_RATE)))
    if most == 1:
        least = chunk_samples(config, 1)
        return least, None, least, least
    # Of a single chunk the exporter would conclude that there is never another number.
    example = chunk_samples(config, min(most, max(2, -(-EXAMPLE_FRAMES // chunk_frames))))
    chunks = Dim("chunks", min=1, max=most)
    samples = HOP_SAMPLES * chunk_frames * chunks + config.overlap_samples
    dynamic_shapes: tuple[Any, ...] = ({1: samples}, tuple({} for _ in EncoderState._fields))
    return example, dynamic_shapes, chunk_samples(config, 1), chunk_samples(config, most)


def _method_names(config: EncoderConfig, names: Sequence[str] | None) -> tuple[str, ...]:
    possible = METHODS if config.context is not None else ("forward", "features")
    if names is None:
        return tuple(name for name in possible if name != "features")
    if unknown := [name for name in names if name not in possible]:
        kind = "streaming" if config.context is not None else "full-context"
        raise ExportError(f"a {kind} student has no method {unknown}; it has {list(possible)}")
    if "forward" not in names:
        raise ExportError(f"got the methods {list(names)}; forward must be among them")
    return tuple(names)


def _hidden_layers(
    config: EncoderConfig, names: Sequence[str], layers: Sequence[int]
) -> tuple[int, ...]:
    """In ascending order, the last one always among them: it is what ``hidden`` is."""
    if wrong := [layer for layer in layers if not 1 <= layer <= config.layers]:
        raise ExportError(f"this student has no layers {wrong}; it has 1 to {config.layers}")
    if layers and "features" not in names:
        raise ExportError(f"the layers {list(layers)} need the method features; name it too")
    return tuple(sorted({*layers, config.layers}))


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
        lookahead_frames = config.context.chunk_frames - 1 + config.context.right_frames
        lookahead_samples = lookahead_frames * HOP_SAMPLES
        state = state_shapes(config, 1, config.context.left_frames)
    data = provenance.get("training_data", [])
    features = methods["features"].module if "features" in methods else None
    hidden_layers = features.layers if isinstance(features, Features) else (config.layers,)
    return {
        "format": "rdsdk",
        "version": CARD_VERSION,
        "name": name,
        "language": str(provenance.get("language", "und")),
        "task": "features" if checkpoint.vocabulary is None else "ctc",
        "architecture": config.to_dict(),
        "parameters": exported_parameters(student),
        "vocabulary": None if checkpoint.vocabulary is None else checkpoint.vocabulary.to_dict(),
        "sample_rate": SAMPLE_RATE,
        "hop_samples": HOP_SAMPLES,
        "receptive_field_samples": RECEPTIVE_FIELD_SAMPLES,
        "overlap_samples": OVERLAP_SAMPLES if config.context is None else config.overlap_samples,
        "context": None if config.context is None else asdict(config.context),
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
        "hidden_layers": list(hidden_layers),
        "licence": str(provenance.get("licence", "unknown")),
        "training_data": [str(item) for item in data] if isinstance(data, list) else [],
        "measured": measured or {},
        "rdsdk_version": version("rdsdk"),
    }


def card_faults(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What a card says otherwise than ``card`` would; name, figures and versions are its own."""
    plain = json.loads(json.dumps(expected))
    differing = [
        name
        for name in sorted({*found, *plain} - _OWN_FIELDS)
        if found.get(name) != plain.get(name)
    ]
    return [f"its card has another {name} than this checkpoint" for name in differing]
