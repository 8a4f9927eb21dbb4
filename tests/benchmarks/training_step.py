"""One step of masking distillation beside what the released code does, re-enacted plainly.

``python -m tests.benchmarks.training_step [--rows 4] [--seconds 5] [--rounds 5] [--threads 1]
[--device cpu]``. HuBERT Base -> ARMHuBERT-S, random weights, the same in both; the recordings of
the tests; turn and turn about in one process.

As released: float32; the teacher runs twice, convolutions included, with attention maps formed;
frame losses layer by layer over the whole batch. Ours: what ``rdsdk distill`` does with
``hardware.precision=bf16-mixed``: convolutions once for both passes, fused attention, bfloat16 for
teacher and student. The maps of the student are formed in both: reuse needs them. Each contender
ends with the same AdamW update.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rdsdk.audio import files
from rdsdk.models.config import preset
from rdsdk.models.extractor import frame_count
from rdsdk.models.student import Student
from rdsdk.training.losses import frame_losses, layer_weights
from rdsdk.training.masking import Masking
from rdsdk.training.transformers_import import import_transformers
from rdsdk.training.transformers_teacher import TransformersTeacher

RECORDINGS = sorted((Path(__file__).parents[1] / "assets" / "speech").glob("*.flac"))
RATIO = 0.4


class Clock:
    """Seconds of each part of a step."""

    def __init__(self, device: torch.device) -> None:
        self.parts: dict[str, float] = {}
        self._device = device
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.parts[name] = now - self._last
        self._last = now


class Batch:
    """Recordings of one length, and a mask."""

    def __init__(self, rows: int, seconds: float, device: torch.device) -> None:
        samples = int(seconds * 16_000)
        joined = np.concatenate([files.read(path) for path in RECORDINGS])
        self.waveforms = torch.from_numpy(np.resize(joined, (rows, samples))).to(device)
        self.sample_counts = torch.full((rows,), samples, device=device)
        frames = frame_count(samples)
        self.frame_counts = torch.full((rows,), frames, device=device)
        ids = [f"row{row}" for row in range(rows)]
        self.mask = Masking().masks(ids, self.frame_counts.cpu(), frames, RATIO, 0).to(device)


def models(attention: str, device: torch.device) -> tuple[Any, Student]:
    """The teacher and the student, always with the same weights."""
    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.HubertConfig(attn_implementation=attention)
    teacher = transformers.HubertModel(config).eval().requires_grad_(False).to(device)
    student = Student(preset("armhubert-s"), projection_width=config.hidden_size).to(device)
    return teacher, student.train()


def finished(clock: Clock, loss: Tensor, optimiser: torch.optim.Optimizer) -> Clock:
    """What every step ends with."""
    clock.lap("student forward")
    loss.backward()
    clock.lap("backward")
    optimiser.step()
    optimiser.zero_grad()
    clock.lap("update")
    return clock


def as_released(device: torch.device) -> Callable[[Batch], Clock]:
    """Two whole teacher passes, float32, losses as loops over layers."""
    teacher, student = models("eager", device)
    optimiser = torch.optim.AdamW(student.parameters(), 5e-3)
    weights = layer_weights(12)

    def states(batch: Batch, masked: bool) -> Sequence[Tensor]:
        found = teacher(
            batch.waveforms,
            mask_time_indices=batch.mask if masked else None,
            output_hidden_states=True,
        )
        return found.hidden_states[1:]

    def step(batch: Batch) -> Clock:
        clock = Clock(device)
        with torch.no_grad():
            unmasked, masked = states(batch, masked=False), states(batch, masked=True)
        clock.lap("teacher")
        output, _ = student(batch.waveforms, frame_mask=batch.mask)
        predictions = student.project(output.hidden)
        loss = torch.zeros((), device=device)
        frames = batch.mask.numel()
        for layer, prediction in enumerate(predictions):
            to_unmasked = (prediction - unmasked[layer]).square().mean(dim=-1)
            to_masked = (prediction - masked[layer]).square().mean(dim=-1)
            loss = loss + weights[layer] * (to_unmasked * batch.mask).sum() / frames
            loss = loss + weights[layer] * (to_masked * ~batch.mask).sum() / frames
        return finished(clock, loss, optimiser)

    return step


def ours(device: torch.device) -> Callable[[Batch], Clock]:
    """The parts of ``rdsdk.training.distillation``."""
    model, student = models("sdpa", device)
    teacher = TransformersTeacher(model, "HuBERT Base", precision="bfloat16")
    optimiser = torch.optim.AdamW(student.parameters(), 5e-3)
    weights = torch.tensor(layer_weights(12), device=device)

    def step(batch: Batch) -> Clock:
        clock = Clock(device)
        said = teacher(batch.waveforms, batch.sample_counts, batch.mask)
        clock.lap("teacher")
        with torch.autocast(device.type, torch.bfloat16):
            output, _ = student(
                batch.waveforms, sample_counts=batch.sample_counts, frame_mask=batch.mask
            )
            losses = frame_losses(
                student.project(output.hidden),
                said.unmasked,
                said.masked,
                batch.mask,
                batch.frame_counts,
            )
            loss = (weights * (losses.masked + losses.unmasked)).sum()
        return finished(clock, loss, optimiser)

    return step


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    batch = Batch(options.rows, options.seconds, device)
    contenders = {"as released": as_released(device), "rdsdk": ours(device)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("steps", total=len(contenders) * (options.rounds + 1))
        for turn in range(options.rounds + 1):
            for name, step in contenders.items():
                parts = step(batch).parts
                if turn:  # the first is for warming up
                    taken[name].append(parts)
                progress.advance(task)
    whole = {
        name: statistics.median(sum(parts.values()) for parts in laps)
        for name, laps in taken.items()
    }
    names = list(taken["rdsdk"][0])
    heard = options.rows * options.seconds
    print(f"{options.rows} x {options.seconds:g} s, {options.threads} threads, {device}\n")
    print(f"| | {' | '.join(f'{name} s' for name in names)} | step s | audio hours an hour |")
    print("|---" * (len(names) + 3) + "|")
    for name, laps in taken.items():
        cells = [f"{statistics.median(parts[part] for parts in laps):.2f}" for part in names]
        print(f"| {name} | {' | '.join(cells)} | {whole[name]:.2f} | {heard / whole[name]:.1f} |")
    print(f"\n{whole['as released'] / whole['rdsdk']:.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
