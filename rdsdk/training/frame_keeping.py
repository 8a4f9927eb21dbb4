"""Run a frozen extractor over a corpus once and keep what it says; see ``rdsdk.data.kept_frames``.

A student of some million parameters spends more of a step in its convolutions, in decoding sound
and in asking its teachers than in its encoder. Where none of these learn, all of it can be done
beforehand. A ``Tdnn`` hears energies that are never learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import track
from torch import nn

from rdsdk.data.batch import Batch
from rdsdk.data.batches import TrainingBatches
from rdsdk.data.kept_frames import description, keep
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn
from rdsdk.training.fingerprint import of_extractor, of_weights
from rdsdk.training.imitation import Imitated, Imitation, hear_alike, teacher_log_probs


@dataclass(frozen=True)
class Keeping:
    """How much is kept, and what of it teachers say.

    Args:
        passes: over the corpus, each with its own augmentation.
        teachers: who are asked once what they say together of each frame; nobody, if empty.
        whole: those that stream hear each recording as a whole.
    """

    passes: int
    teachers: Sequence[Imitated] = ()
    whole: bool = False

    @classmethod
    def of(cls, passes: int, teachers: Sequence[Imitated], imitation: Imitation) -> Keeping | None:
        """What a recipe's ``kept_passes`` and ``imitation`` ask for; None if nothing is kept."""
        return cls(passes, teachers, imitation.whole) if passes else None


def keep_frames(
    model: Student | Tdnn,
    batches: TrainingBatches,
    keeping: Keeping,
    folder: Path,
    how: dict[str, Any],
    manifests: Sequence[str],
    device: torch.device,
    half: bool,
) -> None:
    """Keep epochs of ``batches`` in ``folder``, those that are not there already.

    Args:
        how: what else decides the frames and their targets (augmentation, seed), JSON values;
            kept frames of another ``how``, other manifests, another extractor or other teachers
            are made anew.
        manifests: what ``batches`` were read from.
        half: everything runs in bfloat16, and what is kept takes 16 bits.
    """
    passes = keeping.passes
    described = {
        **how,
        "manifests": [_content(Path(manifest)) for manifest in manifests],
        "extractor": of_extractor(model) if isinstance(model, Student) else "tdnn",
        "mel_bands": model.config.mel_bands,
        "teachers": [of_weights(each, each.config) for each in keeping.teachers],
        "whole": keeping.whole,
        "half": half,
    }
    there = description(folder) or {}
    made = int(there.pop("passes", 0))
    if there != described:
        made = 0
    if made >= passes:
        rank_zero_info(f"the frames kept in {folder} are used again")
        return

    # Of all weights, and so asked once.
    alike = [isinstance(model, Student) and hear_alike(each, model) for each in keeping.teachers]

    def heard(number: int) -> Iterator[Batch]:
        batches.set_epoch(number)
        told = f"keeping frames, pass {number + 1} of {passes}"
        for batch in track(batches, told, len(batches), console=Console(stderr=True)):
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, half):
                batch = batch.to(device)
                yield _heard(model, keeping, alike, batch, half).to("cpu")

    parts: list[nn.Module] = [*keeping.teachers]
    if isinstance(model, Student):
        parts += [part for part in (model.extractor, model.energies) if part is not None]
    before = [(part, next(part.parameters()).device, part.training) for part in parts]
    for part in parts:
        part.to(device).eval()
    try:
        keep(folder, (heard(number) for number in range(made, passes)), described, made)
    finally:
        for part, place, training in before:
            part.to(place).train(training)


def _heard(
    model: Student | Tdnn, keeping: Keeping, alike: Sequence[bool], batch: Batch, half: bool
) -> Batch:
    """The batch and all of it that is kept."""
    energies, said = None, None
    if isinstance(model, Tdnn):
        # They are all that it hears, and so its frames.
        frames = model.exact(batch.waveforms, batch.frame_counts)
        frames = frames.half() if half else frames
    else:
        frames = model.extractor(batch.waveforms)
        energies = None if model.energies is None else model.energies.exact(batch.waveforms)
    if keeping.teachers:
        # A teacher with energies hears its own, not those of the student.
        heard = replace(batch, frames=frames)
        said = teacher_log_probs(keeping.teachers, heard, keeping.whole, alike)
    if half:
        # Finer than bfloat16 here, where no number is large.
        energies = None if energies is None else energies.half()
        said = None if said is None else said.half()
    return replace(batch, frames=frames, energies=energies, teacher_log_probs=said)


def _content(manifest: Path) -> str:
    """A manifest's path and content: new alignments in an old file are other targets."""
    if not manifest.is_file():
        return str(manifest)
    return f"{manifest} {hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}"
