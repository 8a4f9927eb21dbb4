"""The functions of a Core ML package: wrappers that only rename, their lengths and their states.

``forward`` hears a whole recording and keeps nothing; ``step`` hears one chunk and keeps the
stream's state inside Core ML. Shapes: S samples, T = (S - 80) // 320 frames, V symbols, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobile_export.programs import (
    EXAMPLE_FRAMES,
    FULL_CONTEXT_MAX_SAMPLES,
    FULL_CONTEXT_MIN_SAMPLES,
    chunk_samples,
    require_memory,
)
from rdsdk.errors import ExportError
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, SAMPLE_RATE, EncoderConfig
from rdsdk.models.state import EncoderState, state_shapes
from rdsdk.models.student import Student

FORWARD, STEP = "forward", "step"
WAVEFORM, SAMPLE_COUNT = "waveform", "sample_count"
STATE_ROW = 32
"""Width of a packed state. The Neural Engine fails on states whose last dimension is not a multiple
of 32 (github.com/apple/coremltools issue 2631), and a head is 36 or 40 wide."""


def packed_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """How Core ML keeps a state: first axis as it is, the others in rows of 32, zeros behind."""
    return (shape[0], -(-prod(shape[1:]) // STATE_ROW), STATE_ROW)


def pack(state: Tensor) -> Tensor:
    """(A, ...) -> ``packed_shape``."""
    flat = state.flatten(1)
    missing = -flat.shape[1] % STATE_ROW
    return (F.pad(flat, (0, missing)) if missing else flat).unflatten(1, (-1, STATE_ROW))


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """``packed_shape`` -> (A, ...), in float32."""
    return packed.float().flatten(1)[:, : prod(shape[1:])].reshape(tuple(shape))


class Forward(nn.Module):
    """waveform (1, S) -> (log_probs (1, T, V) if any, hidden (1, T, D)), from a fresh state.

    With ``sample_count`` (1,), the samples after it are padding: they change nothing of the frames
    (sample_count - 80) // 320, and later frames mean nothing.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, waveform: Tensor, sample_count: Tensor | None = None) -> tuple[Tensor, ...]:
        output, _ = self.student(waveform, sample_counts=sample_count)
        hidden = output.hidden[-1]
        return (hidden,) if output.log_probs is None else (output.log_probs, hidden)


class Step(nn.Module):
    """``Forward`` of one chunk, from the state in its buffers, which then hold the next one.

    Core ML makes a state of each buffer that is written to.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.shapes = stream_shapes(student.config)
        for name, shape in self.shapes.items():
            self.register_buffer(name, torch.zeros(packed_shape(shape)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        kept = {name: self.get_buffer(name) for name in self.shapes}
        state = EncoderState(**{name: unpack(kept[name], self.shapes[name]) for name in kept})
        output, following = self.student(waveform, state, followed=True)
        for name, tensor in following._asdict().items():
            kept[name].copy_(pack(tensor))
        hidden = output.hidden[-1]
        return (hidden,) if output.log_probs is None else (output.log_probs, hidden)


@dataclass(frozen=True)
class Function:
    """One function of a package, ready to be converted.

    Its waveform holds ``min_samples`` to ``max_samples``, or, where ``lengths`` are given, exactly
    one of those and a ``sample_count`` beside it. ``states`` are the packed shapes by name.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    min_samples: int
    max_samples: int
    lengths: tuple[int, ...] = ()
    states: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with: a length that no other dimension has by chance."""
        usual = HOP_SAMPLES * EXAMPLE_FRAMES + OVERLAP_SAMPLES + 7
        samples = self.lengths[-1] if self.lengths else min(usual, self.max_samples)
        waveform = torch.zeros(1, samples)
        if SAMPLE_COUNT in self.inputs:
            return waveform, torch.tensor([samples], dtype=torch.int32)
        return (waveform,)


def stream_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of one stream's state, by name; empty for a full-context student."""
    if config.context is None:
        return {}
    return state_shapes(config, 1, config.context.left_frames)


def functions(
    student: Student,
    names: Sequence[str] | None = None,
    lengths_seconds: Sequence[float] = (),
) -> dict[str, Function]:
    """The functions of a student's package, by name.

    Args:
        student: in eval mode, weight norm folded.
        names: some of ``forward`` and ``step``; by default all that the student has.
        lengths_seconds: where given, ``forward`` takes exactly these lengths: a recording is padded
            to the next one and its real samples are given as ``sample_count``. Shorter code paths
            exist for fixed lengths on Apple's hardware. Otherwise any length from 0.25 to 30 s.

    Raises:
        ExportError: a name that the student has not, or lengths that cannot be.
    """
    config = student.config
    require_memory(config)
    known = (FORWARD,) if config.context is None else (FORWARD, STEP)
    wanted = known if names is None else tuple(dict.fromkeys(names))
    if not wanted or not set(wanted) <= set(known):
        kind = "full-context" if config.context is None else "streaming"
        raise ExportError(
            f"a package of a {kind} student holds functions of {list(known)}, got {list(wanted)}"
        )
    outputs = (*(("log_probs",) if student.ctc_head is not None else ()), "hidden")
    made = {}
    if FORWARD in wanted:
        lengths = _lengths(config, lengths_seconds)
        made[FORWARD] = Function(
            FORWARD,
            Forward(student),
            inputs=(WAVEFORM, SAMPLE_COUNT) if lengths else (WAVEFORM,),
            outputs=outputs,
            min_samples=FULL_CONTEXT_MIN_SAMPLES,
            max_samples=lengths[-1] if lengths else FULL_CONTEXT_MAX_SAMPLES,
            lengths=lengths,
        )
    if STEP in wanted:
        samples = chunk_samples(config, 1)
        states = {name: packed_shape(shape) for name, shape in stream_shapes(config).items()}
        made[STEP] = Function(
            STEP, Step(student), (WAVEFORM,), outputs, samples, samples, states=states
        )
    return made


def _lengths(config: EncoderConfig, lengths_seconds: Sequence[float]) -> tuple[int, ...]:
    lengths = tuple(sorted({round(seconds * SAMPLE_RATE) for seconds in lengths_seconds}))
    if not lengths:
        return ()
    if config.extractor_norm == "group":
        raise ExportError(
            "this student normalises over the whole recording (extractor_norm 'group'), so padding "
            "would change every frame; leave the lengths out, any length is then taken as it is"
        )
    if not FULL_CONTEXT_MIN_SAMPLES <= lengths[0] <= lengths[-1] <= FULL_CONTEXT_MAX_SAMPLES:
        raise ExportError(
            f"lengths must be {FULL_CONTEXT_MIN_SAMPLES / SAMPLE_RATE} to "
            f"{FULL_CONTEXT_MAX_SAMPLES / SAMPLE_RATE:.0f} s, got {list(lengths_seconds)}"
        )
    return lengths
