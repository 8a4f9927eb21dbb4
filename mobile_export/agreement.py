"""An artefact's numbers beside those of its checkpoint, call by call, in the real runtime.

Three hear the same sound, each with its own state from call to call: the checkpoint in eager
float32 (the *reference*), the quantised student that was lowered, in eager too (the *twin*), and
the artefact in ExecuTorch. How far the artefact is from the reference says what its precision
costs. Whether lowering changed anything is a sharper question: then the artefact must be as far
from the reference as its twin is, to a few tenths of a decibel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mobile_export.programs import chunk_samples
from rdsdk.models.config import SAMPLE_RATE, EncoderConfig
from rdsdk.models.state import EncoderState
from rdsdk.models.student import Student
from rdsdk.runtime.program import Program

IDENTICAL_DB = 200.0
"""What a report says for tensors that are equal bit for bit; -200 for a NaN or another shape."""

Plan = list[tuple[str, np.ndarray]]
"""Consecutive calls: the method and the waveform (S,) of each."""


@dataclass
class TensorAgreement:
    """How close one tensor is over all calls, each figure a signal-to-noise ratio in decibels.

    ``worst_db`` artefact to reference and ``worst_twin_db`` artefact to twin, each of the worst
    call; ``reference_db`` and ``twin_reference_db`` artefact and twin to reference over all calls.
    """

    worst_db: float = math.inf
    worst_call: str = ""
    worst_twin_db: float = math.inf
    signal: float = 0.0
    noise: float = 0.0
    twin_noise: float = 0.0

    def add(self, call: str, reference: np.ndarray, twin: np.ndarray, got: np.ndarray) -> None:
        """Take one more call into account."""
        ratio = snr_db(reference, got)
        if ratio < self.worst_db or not self.worst_call:
            self.worst_db, self.worst_call = ratio, call
        self.worst_twin_db = min(self.worst_twin_db, snr_db(twin, got))
        self.signal += _power(reference)
        self.noise += _power(reference - got) if reference.shape == got.shape else math.inf
        self.twin_noise += _power(reference - twin)

    @property
    def reference_db(self) -> float:
        """Artefact to reference over all calls."""
        return _ratio_db(self.signal, self.noise)

    @property
    def twin_reference_db(self) -> float:
        """Twin to reference over all calls: what the precision costs by itself."""
        return _ratio_db(self.signal, self.twin_noise)

    @property
    def lost_db(self) -> float:
        """How much further the artefact is from the reference than its twin; 0 if lowering changed
        nothing, below 0 if it happens to be closer."""
        return self.twin_reference_db - self.reference_db

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "worst_snr_db": bounded(self.worst_db),
            "worst_call": self.worst_call,
            "worst_twin_snr_db": bounded(self.worst_twin_db),
            "snr_db": bounded(self.reference_db),
            "twin_to_checkpoint_snr_db": bounded(self.twin_reference_db),
        }


@dataclass
class Agreement:
    """How close an artefact is to its checkpoint over all that was run, tensor by tensor."""

    calls: int = 0
    lengths_seconds: tuple[float, ...] = ()
    tensors: dict[str, TensorAgreement] = field(default_factory=dict)

    @property
    def worst(self) -> str:
        """The tensor and call of the lowest ratio."""
        name = self._worst_name()
        return f"{name} of {self.tensors[name].worst_call}"

    @property
    def worst_snr_db(self) -> float:
        """The lowest ratio of artefact to reference of any tensor of any call."""
        return self.tensors[self._worst_name()].worst_db

    @property
    def worst_twin_snr_db(self) -> float:
        """The lowest ratio of artefact to twin of any tensor of any call."""
        return min(tensor.worst_twin_db for tensor in self.tensors.values())

    def _worst_name(self) -> str:
        return min(self.tensors, key=lambda name: self.tensors[name].worst_db)

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "calls": self.calls,
            "lengths_seconds": list(self.lengths_seconds),
            "worst_snr_db": bounded(self.worst_snr_db),
            "worst": self.worst,
            "worst_twin_snr_db": bounded(self.worst_twin_snr_db),
            "tensors": {name: tensor.to_dict() for name, tensor in self.tensors.items()},
        }


def compare(reference: Student, twin: Student, program: Program) -> Agreement:
    """Let all three hear several lengths, and if they stream several calls of every method.

    Raises:
        ModelError: the artefact cannot be run.
    """
    agreement = Agreement()
    lengths: set[float] = set()
    layers = program.card.hidden_layers
    for label, plan in plans(reference.config, program):
        states: list[EncoderState | None] = [None, None]
        state = None
        for index, (method, waveform) in enumerate(plan):
            lengths.add(round(len(waveform) / SAMPLE_RATE, 3))
            expected, states[0] = eager(reference, waveform, states[0], layers)
            rounded, states[1] = eager(twin, waveform, states[1], layers)
            got, state = _run(program, method, waveform, state)
            for name, value in got.items():
                tensor = agreement.tensors.setdefault(name, TensorAgreement())
                tensor.add(f"{label}, call {index + 1}", expected[name], rounded[name], value)
            agreement.calls += 1
    agreement.lengths_seconds = tuple(sorted(lengths))
    return agreement


def plans(config: EncoderConfig, program: Program) -> Iterator[tuple[str, Plan]]:
    """Stretches of sound, each cut into the waveforms of several calls of named methods."""
    methods = program.card.methods
    method = methods["forward"]
    if config.context is None:
        lengths = [method.min_samples, 2 * SAMPLE_RATE + 123, 7 * SAMPLE_RATE]
        for name in ("forward", "features"):
            for seed, n in enumerate(lengths if name in methods else []):
                yield f"{name} of {n} samples", [(name, probe_sound(n / SAMPLE_RATE, seed)[:n])]
        return
    hop = chunk_samples(config, 1) - chunk_samples(config, 0)
    most = (method.max_samples - chunk_samples(config, 0)) // hop
    many = [1, most, 2, min(5, most), 1]
    calls = {
        "chunk by chunk": [("forward", 1)] * 6,
        "chunks of many sizes": [("forward", n) for n in many],
    }
    if "step" in methods:
        calls["step by step"] = [("step", 1)] * 6
        calls["both methods in turn"] = [("step" if n == 1 else "forward", n) for n in many]
    if "features" in methods:
        calls["features, and forward in turn"] = [
            ("features", 1),
            ("forward", 2),
            ("features", min(5, most)),
            ("features", 1),
        ]
    for seed, (label, plan) in enumerate(calls.items()):
        sound = probe_sound((sum(n for _, n in plan) + 1) * hop / SAMPLE_RATE, seed)
        starts = np.cumsum([0, *(n for _, n in plan[:-1])]) * hop
        yield (
            label,
            [
                (name, sound[start : start + chunk_samples(config, n)])
                for start, (name, n) in zip(starts, plan, strict=True)
            ],
        )


def eager(
    student: Student, waveform: np.ndarray, state: EncoderState | None, layers: tuple[int, ...] = ()
) -> tuple[dict[str, np.ndarray], EncoderState]:
    """One call in torch: every tensor that a method may give by name, and the next state."""
    with torch.no_grad():
        streaming = student.config.context is not None
        output, following = student(torch.from_numpy(waveform)[None], state, followed=streaming)
    tensors = {"hidden": output.hidden[-1][0].numpy()}
    tensors |= {f"hidden_{layer}": output.hidden[layer - 1][0].numpy() for layer in layers}
    if output.log_probs is not None:
        tensors["log_probs"] = output.log_probs[0].numpy()
    if student.config.context is not None:
        tensors |= {name: tensor.numpy() for name, tensor in following._asdict().items()}
    return tensors, following


def _run(
    program: Program, method: str, waveform: np.ndarray, state: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]:
    if method == "features":
        features = program.features(waveform, state)
        named = {f"hidden_{layer}": hidden for layer, hidden in features.hidden.items()}
        return {**named, **features.state}, features.state
    output = (program.step if method == "step" else program.forward)(waveform, state)
    named = {"hidden": output.hidden, **output.state}
    if output.log_probs is not None:
        named["log_probs"] = output.log_probs
    return named, output.state


def probe_sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound with something of everything, (S,) float32: voiced syllables, hiss, silence, clicks."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * SAMPLE_RATE)
    time = np.arange(samples) / SAMPLE_RATE
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * time) + 20 * seed
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formant = 500 + 300 * np.sin(2 * np.pi * 1.3 * time)
    voiced = sum(np.sin(h * phase) / (1 + ((h * pitch - formant) / 300) ** 2) for h in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)
    hiss = rng.normal(size=samples) * np.clip(np.sin(2 * np.pi * 1.1 * time + 1), 0, None)
    sound = 0.2 * voiced * syllables + 0.03 * hiss + 0.001 * rng.normal(size=samples)
    sound[rng.integers(0, samples, 3)] += 0.5
    return np.clip(sound, -1, 1).astype(np.float32)


def snr_db(expected: np.ndarray, got: np.ndarray) -> float:
    """Signal-to-noise ratio of ``got`` in decibels; -inf when shapes differ or a NaN is in it."""
    if expected.shape != got.shape or not np.isfinite(got).all():
        return -math.inf
    return _ratio_db(_power(expected), _power(expected - got))


def bounded(ratio_db: float) -> float:
    """A ratio as JSON can hold it, rounded to a tenth."""
    return round(min(max(ratio_db, -IDENTICAL_DB), IDENTICAL_DB), 1)


def _power(x: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64)).sum())


def _ratio_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    if not (signal and math.isfinite(noise)):
        return -math.inf
    return 10 * math.log10(signal / noise)
