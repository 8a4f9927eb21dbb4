"""Run a frozen extractor over a corpus once and keep what it says; see ``rdsdk.data.kept_frames``.

A student of two million parameters spends more of a step in its convolutions and in decoding sound
than in its encoder. Where they are not trained, all of it can be done beforehand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rdsdk.data.batch import Batch
from rdsdk.data.batches import TrainingBatches
from rdsdk.data.kept_frames import description, keep
from rdsdk.models.student import Student


def keep_frames(
    student: Student,
    batches: TrainingBatches,
    passes: int,
    folder: Path,
    how: dict[str, Any],
    manifests: Sequence[str],
    device: torch.device,
    half: bool,
) -> None:
    """Keep ``passes`` epochs of ``batches`` in ``folder``, unless they are there already.

    Args:
        how: what else decides the frames and their targets (augmentation, seed), JSON values;
            kept frames of another ``how``, other manifests or another extractor are made anew.
        manifests: what ``batches`` were read from.
        half: the extractor runs in bfloat16, and so its frames are kept.
    """
    extractor = student.extractor
    described = {
        **how,
        "manifests": [_content(Path(manifest)) for manifest in manifests],
        "extractor": fingerprint(student),
        "half": half,
    }
    if description(folder) == {**described, "passes": passes}:
        rank_zero_info(f"the frames kept in {folder} are used again")
        return
    before = next(extractor.parameters()).device
    training = extractor.training
    extractor.to(device).eval()

    def convolved(number: int) -> Iterator[tuple[Batch, Tensor]]:
        batches.set_epoch(number)
        told = f"keeping frames, pass {number + 1} of {passes}"
        for batch in track(batches, told, len(batches), console=Console(stderr=True)):
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, half):
                yield batch, extractor(batch.waveforms.to(device)).cpu()

    try:
        keep(folder, (convolved(number) for number in range(passes)), described)
    finally:
        extractor.to(before).train(training)


def _content(manifest: Path) -> str:
    """A manifest's path and content: new alignments in an old file are other targets."""
    if not manifest.is_file():
        return str(manifest)
    return f"{manifest} {hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}"


def fingerprint(student: Student) -> str:
    """Of an extractor's architecture and weights."""
    digest = hashlib.sha256(repr(student.config.convs).encode())
    for name, tensor in sorted(student.extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
