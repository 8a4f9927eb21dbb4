"""``rdsdk distill --dry-run``: what a run would cost, before anything is downloaded or trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rdsdk.data.batches import training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.errors import DataError
from rdsdk.models.config import OVERLAP_SAMPLES, SAMPLE_RATE, EncoderConfig
from rdsdk.models.cost import macs_per_second, parameter_count, student_shape
from rdsdk.models.extractor import frame_count
from rdsdk.models.student import Student
from rdsdk.training.distill_recipe import DistillRecipe
from rdsdk.training.losses import frame_losses, matched_layers
from rdsdk.training.teacher_shape import TeacherShape, teacher_shape

CLIP_SECONDS = 10.0
"""Length of the recording for which MACs are counted; attention grows with it."""
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one device in a training step on the longest batch; an estimate."""

    weights: int
    """Student and teacher, the student's gradients and AdamW's two moments."""
    saved: int
    """What the student's forward pass keeps for the backward pass."""
    targets: int
    """The teacher's hidden states, and the largest thing it holds while it makes them."""

    @property
    def total(self) -> int:
        return self.weights + self.saved + self.targets


@dataclass(frozen=True)
class Plan:
    """The figures of a run. Parameters of a teacher are those of the model without the heads of its
    pre-training (HuBERT Base: 94.4 million; with them 94.7, the figure papers give)."""

    teacher: TeacherShape
    config: EncoderConfig
    parameters: int
    parameters_with_heads: int
    teacher_macs: float
    student_macs: float
    student_macs_with_heads: float
    hours: float | None
    steps: int | None
    batch_audio_seconds: float
    memory: Memory

    @property
    def parameter_ratio(self) -> float:
        """With heads, as published."""
        return self.parameters_with_heads / self.teacher.parameters

    @property
    def macs_ratio(self) -> float:
        """With heads, as the parameters."""
        return self.student_macs_with_heads / self.teacher_macs


def plan(recipe: DistillRecipe) -> Plan:
    """What a recipe would do.

    Raises:
        ConfigError: the student or the objective is impossible, or the teacher's shape unknown.
    """
    teacher = teacher_shape(recipe.teacher)
    config = recipe.student.config()
    matched_layers(config.layers, teacher.layers, recipe.objective.teacher_layers)
    heads = teacher.width if recipe.objective.heads else None
    hours, steps = _length(recipe)
    return Plan(
        teacher,
        config,
        parameter_count(config),
        parameter_count(config, heads),
        macs_per_second(teacher.cost, CLIP_SECONDS),
        macs_per_second(student_shape(config), CLIP_SECONDS),
        macs_per_second(student_shape(config, heads), CLIP_SECONDS),
        hours,
        steps,
        recipe.batch_seconds * recipe.accumulate_batches * _devices(recipe),
        memory(recipe, teacher, config, heads),
    )


def _devices(recipe: DistillRecipe) -> int:
    devices = recipe.hardware.devices
    count = devices if isinstance(devices, int) else int(devices) if devices.isdigit() else 1
    return max(1, count) * recipe.hardware.nodes


def _length(recipe: DistillRecipe) -> tuple[float | None, int | None]:
    """Hours of an epoch and steps of the run, from the manifests or from ``train_hours``."""
    chosen = recipe.optimisation
    batches: float | None = None
    try:
        cuts = read_cuts(recipe.train, recipe.train_weights)
    except DataError:
        hours = recipe.train_hours
        if hours is not None:
            batches = math.ceil(hours * 3600 / recipe.batch_seconds / _devices(recipe))
    else:
        hours = None if cuts.is_lazy else sum(cut.duration for cut in cuts) / 3600
        if hours is not None:
            loader = training_batches(
                cuts,
                None,
                recipe.batch_seconds,
                world_size=_devices(recipe),
                longest_seconds=recipe.longest_seconds,
            )
            batches = len(loader)
    if chosen.steps is not None or batches is None:
        return hours, chosen.steps
    return hours, chosen.epochs * math.ceil(batches / recipe.accumulate_batches)


def memory(
    recipe: DistillRecipe, teacher: TeacherShape, config: EncoderConfig, heads: int | None
) -> Memory:
    """An estimate for the batch of the longest utterances; allocator and kernels come on top."""
    seconds = min(recipe.longest_seconds, recipe.batch_seconds)
    rows = max(1, int(recipe.batch_seconds / seconds))
    samples = round(seconds * SAMPLE_RATE) + OVERLAP_SAMPLES
    mixed = recipe.hardware.precision in ("bf16-mixed", "16-mixed")
    passes = 2 if recipe.objective.frames in ("both", "unmasked") else 1
    size = 2 if mixed else 4
    frames = rows * frame_count(samples)
    states = passes * teacher.layers * frames * teacher.width * size
    # Without gradients a layer's temporaries go at once; the widest is the first convolution's.
    first = teacher.cost.convs[0]
    widest = rows * (samples // first.stride) * first.channels * 4
    return Memory(
        4 * (4 * parameter_count(config, heads) + teacher.parameters),
        saved_bytes(config, heads, rows, samples, torch.bfloat16 if mixed else None),
        states + 2 * widest,
    )


def saved_bytes(
    config: EncoderConfig,
    heads: int | None,
    rows: int,
    samples: int,
    mixed: torch.dtype | None = None,
) -> int:
    """Bytes that autograd keeps of a student's forward pass and frame losses, weights left out.

    Found by running the student on tensors that have shapes and no storage.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        student = Student(config, projection_width=heads)
        counts = torch.full((rows,), samples)
        waveforms = torch.zeros(rows, samples)
        frames = frame_count(samples)
        mask = torch.zeros(rows, frames, dtype=torch.bool)
        own = {_storage(tensor) for tensor in student.parameters()}
        autocast = contextlib.nullcontext() if mixed is None else torch.autocast("cpu", dtype=mixed)
        with _counting(own) as kept, autocast:
            output, _ = student(waveforms, sample_counts=counts, frame_mask=mask)
            if heads is not None:
                targets = [torch.zeros(rows, frames, heads) for _ in output.hidden]
                frame_losses(student.project(output.hidden), targets, None, mask, counts)
            return sum(kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextlib.contextmanager
def _counting(left_out: set[int]) -> Iterator[dict[int, int]]:
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage is freed and its number given to another

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in left_out:
            held.append(tensor)
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def show(made: Plan, console: Console) -> None:
    """The plan as tables."""
    table = Table("", "million parameters", "billion MACs a second of audio")
    for name, parameters, macs in (
        ("teacher", made.teacher.parameters, made.teacher_macs),
        ("student", made.parameters, made.student_macs),
        ("student with heads", made.parameters_with_heads, made.student_macs_with_heads),
    ):
        table.add_row(name, f"{parameters / 1e6:.2f}", f"{macs / 1e9:.2f}")
    table.add_row("with heads / teacher", f"{made.parameter_ratio:.1%}", f"{made.macs_ratio:.1%}")
    console.print(f"teacher {made.teacher.name}: {made.teacher.layers} layers, not loaded")
    owners = len(made.config.owners)
    console.print(
        f"student: {made.config.layers} layers of width {made.config.width}, feed-forward "
        f"{made.config.ffn}, {owners} attention maps, reused maps {made.config.reused_map}"
    )
    console.print(table)
    console.print(
        f"MACs: convolutions, linear layers and attention products of a {CLIP_SECONDS:g} s "
        "recording, divided by its seconds; norms, activations and biases are not counted."
    )
    hours = "unknown (set train_hours)" if made.hours is None else f"{made.hours:.1f}"
    steps = "unknown" if made.steps is None else str(made.steps)
    console.print(
        f"hours in an epoch: {hours}; optimiser steps: {steps}, of up to "
        f"{made.batch_audio_seconds:g} s of audio each"
    )
    parts = made.memory
    console.print(
        f"memory of a device, estimated: {parts.total / GIB:.1f} GiB (weights, gradients and "
        f"moments {parts.weights / GIB:.1f}, kept for the backward pass {parts.saved / GIB:.1f}, "
        f"teacher's states {parts.targets / GIB:.1f})"
    )
