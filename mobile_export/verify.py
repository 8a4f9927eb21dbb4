"""No artefact without proof: its outputs against the checkpoint's.

The artefact runs in the real ExecuTorch runtime, the checkpoint in eager float32, on the same
sound: several lengths from a fresh state and, if it streams, several calls of each method that hand
on the state, from one method to the other too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mobile_export.programs import chunk_samples
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import SAMPLE_RATE, EncoderConfig
from rdsdk.models.state import EncoderState
from rdsdk.models.student import Student
from rdsdk.runtime.program import Program

MINIMUM_SNR_DB = {"fp32": 80.0, "int8": 14.0, "int4": 6.0}
"""Least ratio of signal (the checkpoint's output) to noise (the difference), in decibels."""


@dataclass(frozen=True)
class Agreement:
    """How close an artefact is to its checkpoint over all that was run.

    ``worst_snr_db`` is the lowest of any tensor of any call, ``worst`` names it; ``calls`` is how
    many calls were compared.
    """

    worst_snr_db: float
    worst: str
    calls: int


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
        return -np.inf
    noise = float(np.square(expected.astype(np.float64) - got).sum())
    signal = float(np.square(expected.astype(np.float64)).sum())
    if noise == 0.0:
        return np.inf
    return 10 * np.log10(signal / noise) if signal else -np.inf


def verify(checkpoint: Checkpoint, path: Path | str) -> Agreement:
    """Compare an artefact with a checkpoint.

    Raises:
        ModelError: the artefact cannot be loaded or run.
        ExportError: it was made from another architecture, or its outputs differ by more than its
            precision explains; says where and by how much.
    """
    program = Program(path)
    student, precision = checkpoint.student.eval(), program.card.precision
    if EncoderConfig.from_dict(program.card.architecture) != student.config:
        raise ExportError(f"{path} was made from another architecture than this checkpoint")
    if precision not in MINIMUM_SNR_DB:
        raise ExportError(f"{path} has precision {precision!r}; known: {list(MINIMUM_SNR_DB)}")
    calls = 0
    worst_snr, worst = np.inf, "nothing"
    for label, plan in _plans(student.config, program):
        eager_state: EncoderState | None = None
        state = None
        for index, (method, waveform) in enumerate(plan):
            expected, eager_state = _eager(student, waveform, eager_state)
            run = program.step if method == "step" else program.forward
            output = run(waveform, state)
            state = output.state
            got = {"log_probs": output.log_probs, "hidden": output.hidden, **state}
            for name, tensor in expected.items():
                value = got[name]
                ratio = -np.inf if value is None else snr_db(tensor, value)
                if ratio < worst_snr:
                    worst_snr, worst = ratio, f"{name} of {label}, call {index + 1}"
            calls += 1
    if not worst_snr >= MINIMUM_SNR_DB[precision]:
        raise ExportError(
            f"{path} does not do what its checkpoint does: {worst} agrees to {worst_snr:.1f} dB, "
            f"{precision} needs {MINIMUM_SNR_DB[precision]:.0f} dB"
        )
    return Agreement(float(worst_snr), worst, calls)


def _plans(
    config: EncoderConfig, program: Program
) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Stretches of sound, each cut into the waveforms of several calls of named methods."""
    method = program.card.methods["forward"]
    if config.context is None:
        lengths = [method.min_samples, 2 * SAMPLE_RATE + 123, 7 * SAMPLE_RATE]
        return [
            (f"{n} samples", [("forward", probe_sound(n / SAMPLE_RATE, seed)[:n])])
            for seed, n in enumerate(lengths)
        ]
    hop = chunk_samples(config, 1) - chunk_samples(config, 0)
    most = (method.max_samples - chunk_samples(config, 0)) // hop
    many = [1, most, 2, min(5, most), 1]
    calls = {
        "chunk by chunk": [("forward", 1)] * 6,
        "chunks of many sizes": [("forward", n) for n in many],
    }
    if "step" in program.card.methods:
        calls["step by step"] = [("step", 1)] * 6
        calls["both methods in turn"] = [("step" if n == 1 else "forward", n) for n in many]
    plans = []
    for seed, (label, plan) in enumerate(calls.items()):
        sound = probe_sound((sum(n for _, n in plan) + 1) * hop / SAMPLE_RATE, seed)
        starts = np.cumsum([0, *(n for _, n in plan[:-1])]) * hop
        waveforms = [
            (name, sound[start : start + chunk_samples(config, n)])
            for start, (name, n) in zip(starts, plan, strict=True)
        ]
        plans.append((label, waveforms))
    return plans


def _eager(
    student: Student, waveform: np.ndarray, state: EncoderState | None
) -> tuple[dict[str, np.ndarray], EncoderState]:
    with torch.no_grad():
        output, following = student(torch.from_numpy(waveform)[None], state)
    tensors = {"hidden": output.hidden[-1][0].numpy()}
    if output.log_probs is not None:
        tensors["log_probs"] = output.log_probs[0].numpy()
    if student.config.context is not None:
        tensors |= {name: tensor.numpy() for name, tensor in following._asdict().items()}
    return tensors, following
