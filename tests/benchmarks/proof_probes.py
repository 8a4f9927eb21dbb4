"""What the students of the proof make of recordings of speakers they never heard."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdsdk.data.alignment import frame_targets
from rdsdk.data.augment import Timing
from rdsdk.data.manifest import read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.evaluation.frame_probe import (
    Listen,
    errors_of,
    frame_error_rates,
    hidden_states,
    trained_probe,
)
from rdsdk.models import checkpoint
from rdsdk.models.extractor import frame_count
from rdsdk.models.student import Student
from rdsdk.training.masking import span_mask

Mask = Callable[[Tensor], Tensor]
"""A recording (1, S) -> (1, T) bool, the frames that are not heard."""

PROBE_RECORDINGS = 200
"""Of the training manifest, evenly spread: about 20 minutes."""
GAP_SHARE, GAP_FRAMES = 0.4, 10
"""Of a recording, and of each of its gaps; as the students' masks, drawn anew."""


@dataclass(frozen=True)
class Listening:
    """What is heard, and how.

    Args:
        train, dev: aligned manifests.
        device: where the student runs.
    """

    train: Path
    dev: Path
    device: str


def gaps_of(waveform: Tensor) -> Tensor:
    """(1, T) bool: the frames of a recording (1, S) that are not heard, the same for everybody."""
    frames = torch.tensor([frame_count(waveform.shape[1])])
    rng = torch.Generator().manual_seed(zlib.crc32(waveform.numpy().tobytes()))
    return span_mask(1, frames, GAP_SHARE, GAP_FRAMES, rng, overlap=False)


def probed(student: Student, vocabulary: Vocabulary, heard: Listening) -> dict[str, Any]:
    """Errors of a linear probe on a student's hidden states; it learns from whole recordings and
    is asked of recordings with gaps as well."""
    student.to(heard.device)

    def listen(mask: Mask | None = None) -> Listen:
        def hear(waveform: Tensor) -> list[Tensor]:
            # A teacher that streams is heard as it teaches: whole recordings.
            masked = None if mask is None else mask(waveform).to(heard.device)
            output, _ = student(waveform.to(heard.device), frame_mask=masked, context="full")
            return output.hidden

        return hear

    cuts = list(read_cuts(heard.train))
    chosen = cuts[:: max(1, len(cuts) // PROBE_RECORDINGS)]
    learnt = hidden_states(listen(), chosen, vocabulary)
    held_out = hidden_states(listen(), read_cuts(heard.dev), vocabulary)
    probe = trained_probe(learnt, vocabulary)
    found = asdict(errors_of(probe, held_out, vocabulary))
    gappy = hidden_states(listen(gaps_of), read_cuts(heard.dev), vocabulary)
    found["gaps"] = errors_of(probe, gappy, vocabulary).frame_error_rate
    return found


def head_errors(folder: Path, heard: Listening) -> dict[str, Any]:
    """Errors of a fine-tuned student's own head, in whole recordings and in those with gaps."""
    source = checkpoint.load(folder)
    assert source.vocabulary is not None
    student = source.student.to(heard.device)
    named, gaps_named, targets = [], [], []
    for cut in read_cuts(heard.dev):
        waveform = torch.from_numpy(load_waveform(cut))[None]
        gaps = gaps_of(waveform).to(heard.device)
        named.append(_named(student, waveform.to(heard.device), None))
        gaps_named.append(_named(student, waveform.to(heard.device), gaps))
        targets.append(frame_targets(cut, source.vocabulary, len(named[-1]), Timing()))
    wanted = torch.cat(targets)
    whole, spoken = frame_error_rates(torch.cat(named), wanted, source.vocabulary)
    with_gaps, _ = frame_error_rates(torch.cat(gaps_named), wanted, source.vocabulary)
    return {"frame_error_rate": whole, "symbol_frame_error_rate": spoken, "gaps": with_gaps}


def _named(student: Student, waveform: Tensor, frame_mask: Tensor | None) -> Tensor:
    """The symbol (T,) that the head finds likeliest in each frame of a recording (1, S)."""
    with torch.no_grad():
        output, _ = student(waveform, frame_mask=frame_mask)
    assert output.log_probs is not None
    return output.log_probs[0].argmax(dim=1).cpu()
