"""No package without proof: its numbers and its program against the checkpoint's.

The saved package runs in the interpreter, the checkpoint in eager float32, on the same sound:
several lengths of ``forward`` and several chunks of ``step``. For ``step`` there are two questions.
Starting each call from the very state that the package left, eager must give the same; and going on
from its own float32 state, eager must stay close, for a package keeps its state in float16.

What float16 and compressed weights blur, such as another spelling of GELU, a comparison of
programs shows: the package must follow, operation by operation, a float32 package of the same
checkpoint that agrees with eager to float rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_export.agreement import probe_sound, snr_db
from mobile_export.coreml_card import MAIN, read_card
from mobile_export.coreml_graph import Graph, Nearness, other_program_faults
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_programs import (
    FORWARD,
    SAMPLE_COUNT,
    STEP,
    WAVEFORM,
    stream_shapes,
    unpack,
)
from mobile_export.coreml_structure import (
    declared_states,
    file_faults,
    structure,
    structure_faults,
)
from mobile_export.programs import chunk_samples
from rdsdk.errors import ExportError
from rdsdk.models.config import SAMPLE_RATE, EncoderConfig
from rdsdk.models.extractor import frame_count
from rdsdk.models.state import EncoderState
from rdsdk.models.student import Student

MINIMUM_SNR_DB = {"fp32": 90.0, "fp16": 35.0, "int8": 14.0, "palette6": 8.0, "palette4": 0.0}
"""Least ratio of signal to noise of any output of any call, in decibels."""
STATE_SNR_DB = 55.0
"""The same of a state, and of outputs that follow from states: rounded to float16, 73 is usual."""
NEARNESS = {
    "fp32": Nearness(largest=0.0),
    "fp16": Nearness(largest=1e-3),
    "int8": Nearness(largest=6e-3),
    "palette6": Nearness(rms=0.06),
    "palette4": Nearness(rms=0.2),
}
"""Of the weights to those of a float32 package. int8: half a step is 1/254, and float16 rounds."""
STEPS = 6


@dataclass
class PackageAgreement:
    """How close a package is to its checkpoint over all calls, worst cases in decibels.

    ``worst_snr_db`` of an output, each call from the same state; ``worst_state_snr_db`` of a state
    so made; ``stream_snr_db`` of an output of a stream in which eager keeps its own state;
    ``same_symbol`` the share of frames whose most likely symbol is the same.
    """

    calls: int = 0
    worst_snr_db: float = math.inf
    worst: str = ""
    worst_state_snr_db: float = math.inf
    stream_snr_db: float = math.inf
    frames: int = 0
    same_symbol: float = 1.0

    def add(self, label: str, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
        """Take one call's outputs into account."""
        for name, tensor in expected.items():
            ratio = snr_db(tensor.numpy(), got[name].numpy())
            if ratio < self.worst_snr_db or not self.worst:
                self.worst_snr_db, self.worst = ratio, f"{name} of {label}"
        if "log_probs" in expected:
            same = expected["log_probs"].argmax(-1) == got["log_probs"].argmax(-1)
            total = self.same_symbol * self.frames + float(same.sum())
            self.frames += same.numel()
            self.same_symbol = total / self.frames
        self.calls += 1

    def add_stream(
        self,
        following: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],
        alone: Mapping[str, Tensor],
        got: Mapping[str, Tensor],
    ) -> None:
        """Take into account the state that a call leaves, and eager that keeps its own."""
        for name, tensor in following.items():
            ratio = snr_db(tensor.numpy(), kept[name].numpy())
            self.worst_state_snr_db = min(self.worst_state_snr_db, ratio)
        for name, tensor in alone.items():
            self.stream_snr_db = min(self.stream_snr_db, snr_db(tensor.numpy(), got[name].numpy()))

    def faults(self, precision: str) -> list[str]:
        """What is further off than the precision explains."""
        least = MINIMUM_SNR_DB[precision]
        limits = {
            self.worst: (self.worst_snr_db, least),
            "a state": (self.worst_state_snr_db, min(least, STATE_SNR_DB)),
            "an output of a stream": (self.stream_snr_db, min(least, STATE_SNR_DB)),
        }
        return [
            f"{what} agrees to {found:.1f} dB, {precision} needs {needed:.0f} dB"
            for what, (found, needed) in limits.items()
            if not found >= needed
        ]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value; a ratio is at most 200 dB there."""
        return {
            name: round(min(max(value, -200.0), 200.0), 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Proof:
    """What was found about one package; ``faults`` are sentences, none if it may be kept."""

    functions: dict[str, dict[str, Any]]
    agreement: PackageAgreement
    faults: list[str]


def prove(student: Student, path: Path, exact: Mapping[str, Path] | None = None) -> Proof:
    """Look through a package and run it beside its student.

    Args:
        student: the checkpoint's, in eval mode, weight norm folded.
        path: the package.
        exact: for each function a float32 package of it, proven itself, that this one must follow;
            not for a float32 package.

    Raises:
        ModelError: it cannot be read or run.
        ExportError: it was made from another architecture.
    """
    card = read_card(path)
    precision = card["precision"]
    require_architecture(card, student, path)
    if precision not in MINIMUM_SNR_DB:
        raise ExportError(f"{path} has precision {precision!r}; known: {list(MINIMUM_SNR_DB)}")
    interpreter = Interpreter(path)
    names = function_names(interpreter, card)
    faults = file_faults(path)
    found = {}
    for name, own in names.items():
        states = declared_states(student.config) if name == STEP else {}
        shape = structure(interpreter, own)
        found[name] = shape.to_dict()
        faults += structure_faults(student, name, shape, states)
        if exact is not None:
            other = Graph(Interpreter(exact[name]), MAIN)
            differing = other_program_faults(other, Graph(interpreter, own), NEARNESS[precision])
            faults += [f"{name}: {fault}" for fault in differing]
    agreement = PackageAgreement()
    if not faults:
        compare(student, interpreter, card, agreement)
        faults += agreement.faults(precision)
    return Proof(found, agreement, faults)


def require_architecture(card: Mapping[str, Any], student: Student, path: Path) -> None:
    """Do nothing if a package was made from a student of this architecture.

    Raises:
        ExportError: it was made from another.
    """
    if EncoderConfig.from_dict(card["architecture"]) != student.config:
        raise ExportError(f"{path} was made from another architecture than this checkpoint")


def function_names(interpreter: Interpreter, card: Mapping[str, Any]) -> dict[str, str]:
    """For each function of the card its name in the package.

    Raises:
        ExportError: the package holds other functions than its card says.
    """
    named = {name: name if len(card["methods"]) > 1 else MAIN for name in card["methods"]}
    if set(named.values()) != set(interpreter.functions):
        raise ExportError(
            f"{interpreter.path} holds the functions {sorted(interpreter.functions)}, its card "
            f"says {sorted(named.values())}"
        )
    return named


def compare(
    student: Student, interpreter: Interpreter, card: Mapping[str, Any], agreement: PackageAgreement
) -> None:
    """Run every function beside the student."""
    names = function_names(interpreter, card)
    if FORWARD in names:
        for label, waveform, samples in recordings(card):
            inputs = {WAVEFORM: waveform}
            if samples is not None:
                inputs[SAMPLE_COUNT] = torch.tensor([samples])
            heard = waveform[:, :samples]
            got, _ = interpreter.run(names[FORWARD], inputs)
            frames = frame_count(heard.shape[1])
            cut = {name: tensor[:, :frames] for name, tensor in got.items()}
            agreement.add(label, eager(student, heard)[0], cut)
    if STEP in names:
        _compare_stream(student, interpreter, names[STEP], agreement)


def recordings(card: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, int | None]]:
    """What ``forward`` hears: a label, a waveform (1, S), and its real samples where it is padded.

    Padding is noise here, for it must change nothing.
    """
    lengths = card["package"]["lengths"][FORWARD]
    if not lengths:
        for label, waveform in usual_recordings(card["methods"][FORWARD]["min_samples"]):
            yield label, waveform, None
        return
    for seed, length in enumerate(lengths):
        for samples in (length, 4 * length // 5 + 11):
            sound = probe_sound(length / SAMPLE_RATE + 0.01, seed)[:length]
            noise = np.random.default_rng(seed).normal(size=length).astype(np.float32)
            sound[samples:] = noise[samples:]
            label = f"{samples} samples padded to {length}"
            yield label, torch.from_numpy(sound)[None], samples


def usual_recordings(least_samples: int) -> Iterator[tuple[str, Tensor]]:
    """A label and a waveform (1, S) each, where any length may be heard."""
    for seed, samples in enumerate([least_samples, 2 * SAMPLE_RATE + 123, 7 * SAMPLE_RATE]):
        sound = probe_sound(samples / SAMPLE_RATE, seed)[:samples]
        yield f"{samples} samples", torch.from_numpy(sound)[None]


def chunks(config: EncoderConfig) -> list[Tensor]:
    """Consecutive inputs (1, S) of ``step``."""
    whole, overlap = chunk_samples(config, 1), chunk_samples(config, 0)
    hop = whole - overlap
    sound = torch.from_numpy(probe_sound((STEPS * hop + whole) / SAMPLE_RATE, 5))
    return [sound[None, start * hop : start * hop + whole] for start in range(STEPS)]


def eager(
    student: Student, waveform: Tensor, state: EncoderState | None = None, followed: bool = False
) -> tuple[dict[str, Tensor], EncoderState]:
    """One call in torch: its outputs as a package names them, and the next state."""
    with torch.no_grad():
        output, following = student(waveform, state, followed=followed)
    outputs = {"hidden": output.hidden[-1]}
    if output.log_probs is not None:
        outputs["log_probs"] = output.log_probs
    return outputs, following


def _compare_stream(
    student: Student, interpreter: Interpreter, function: str, agreement: PackageAgreement
) -> None:
    shapes = stream_shapes(student.config)
    packed: dict[str, Tensor] | None = None
    own: EncoderState | None = None
    for number, waveform in enumerate(chunks(student.config)):
        same = (
            None
            if packed is None
            else EncoderState(**{name: unpack(packed[name], shapes[name]) for name in shapes})
        )
        expected, following = eager(student, waveform, same, followed=True)
        alone, own = eager(student, waveform, own, followed=True)
        got, packed = interpreter.run(function, {WAVEFORM: waveform}, packed)
        agreement.add(f"chunk {number + 1}", expected, got)
        kept = {name: unpack(packed[name], shapes[name]) for name in shapes}
        agreement.add_stream(following._asdict(), kept, alone, got)
