"""Two ways for an artefact to remember a stream, beside each other: which one is kept, and why.

``python -m tests.benchmarks.state_design [--checkpoint FOLDER] [--precision int8]``. The same
student's ``step`` is lowered twice: with its state going in and out as tensors (what ``rdsdk
export`` writes), and with the state in mutable buffers of the program. One thread; both run turn
about. Also what ``step`` adds to a file that has ``forward`` already.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rdsdk.pretrained
from mobile_export.executorch import lower
from mobile_export.programs import Method, folded, methods
from mobile_export.quantize import PRECISIONS, quantize
from rdsdk.models import checkpoint
from rdsdk.models.config import OVERLAP_SAMPLES
from rdsdk.models.state import EncoderState
from rdsdk.models.student import Student
from rdsdk.runtime import executorch
from tests.benchmarks.streaming import memory_mb

STREAMS = 16
FIELDS = EncoderState._fields


class Remembering(nn.Module):
    """waveform of one chunk -> (log_probs if any, hidden); the state stays inside."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        for name, tensor in student.encoder.fresh_state()._asdict().items():
            self.register_buffer(f"past_{name}", tensor)

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        past = EncoderState(*(getattr(self, f"past_{name}") for name in FIELDS))
        output, following = self.student(waveform, past)
        for name, tensor in following._asdict().items():
            getattr(self, f"past_{name}").copy_(tensor)
        found = () if output.log_probs is None else (output.log_probs,)
        return (*found, output.hidden[-1])


def remembering(step: Method, student: Student) -> Method:
    """The ``step`` of a student with mutable buffers."""
    outputs = tuple(name for name in step.outputs if name not in FIELDS)
    return Method(
        *(Remembering(student), step.example[:1], None, ("waveform",), outputs),
        *(step.min_samples, step.max_samples),
    )


def load(buffer: bytes) -> tuple[Any, float, float]:
    """A loaded ``step``, the seconds it took, and the memory it holds; the buffer is kept too."""
    before, begun = memory_mb(), time.perf_counter()
    with executorch.quiet():
        program = executorch.binding()._load_program_from_buffer(buffer)
        step = program.load_method("step")
    return (step, program, buffer), time.perf_counter() - begun, memory_mb() - before


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bundled = Path(rdsdk.pretrained.__path__[0]) / "digits"
    parser.add_argument("--checkpoint", type=Path, default=bundled)
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="int8")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    executorch.set_threads(1)
    student = folded(quantize(checkpoint.load(options.checkpoint).student, options.precision))
    both = methods(student)
    if "step" not in both:
        print(f"{options.checkpoint} is a full-context student; it has no state", file=sys.stderr)
        return 2
    files = {}
    for name, chosen in (
        ("forward alone", {"forward": both["forward"]}),
        ("forward and step", both),
        ("state in and out", {"step": both["step"]}),
        ("mutable buffers", {"step": remembering(both["step"], student)}),
    ):
        print(f"lowering: {name} ...", file=sys.stderr, flush=True)
        files[name] = lower(chosen, "{}")
    grown = len(files["forward and step"]) / len(files["forward alone"]) - 1
    state = [tensor.numpy() for tensor in both["step"].example[1:]]
    state_kib = sum(tensor.nbytes for tensor in state) / 1024
    print(
        f"{options.precision}: forward alone {len(files['forward alone']) / 1e6:.2f} MB, with step "
        f"{len(files['forward and step']) / 1e6:.2f} MB ({grown:+.1%}); {state_kib:.0f} KiB of "
        f"state a stream\n"
    )
    sound = 0.1 * torch.randn(1, both["step"].max_samples)
    designs = {name: files[name] for name in ("state in and out", "mutable buffers")}
    loaded = {name: load(buffer) for name, buffer in designs.items()}
    times: dict[str, list[float]] = {name: [] for name in designs}
    for _ in range(options.rounds):
        for name, ((step, *_), _, _) in loaded.items():
            inputs = [sound, *map(torch.from_numpy, state)]
            begun = time.perf_counter()
            step(inputs if name == "state in and out" else inputs[:1])
            times[name].append(time.perf_counter() - begun)
    print(
        f"| a step of {(both['step'].max_samples - OVERLAP_SAMPLES) / 16:.0f} ms | file MB "
        "| step p50 ms | p95 | load ms | memory MB | memory of 16 streams MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, buffer in designs.items():
        _, seconds, megabytes = loaded[name]
        # Mutable buffers belong to a loaded program: another stream is another load.
        each = state_kib / 1024 if name == "state in and out" else megabytes
        p50, p95 = np.percentile(np.array(times[name][options.rounds // 10 :]) * 1000, (50, 95))
        print(
            f"| {name} | {len(buffer) / 1e6:.2f} | {p50:.2f} | {p95:.2f} | {1000 * seconds:.0f} "
            f"| {megabytes:.1f} | {megabytes + each * (STREAMS - 1):.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
