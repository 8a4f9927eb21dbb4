"""A recogniser also learns what its teachers would have written, frame by frame.

Knowledge distillation of outputs (Hinton et al., arXiv 1503.02531) beside the other losses: the
teachers, of the same vocabulary, hear all frames, the student the masked ones in the context of the
batch. It needs no texts: utterances that have none are learnt from by it alone. Several teachers
say together what their log_probs are on average (section 3 there, an ensemble): two that hear in
different ways make different mistakes.

Shapes: B batch, T frames, V symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from rdsdk.data.batch import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.ctc import mean_log_probs
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn
from rdsdk.training.fingerprint import of_extractor
from rdsdk.training.losses import real_frames
from rdsdk.training.steps import log_probs_of, shared

Imitated = Student | Tdnn
"""Who may be imitated: whoever says log_probs of each frame."""


@dataclass(frozen=True)
class Imitation:
    """Whose log_probs are imitated, and how much that counts.

    Args:
        teachers: folders with the same vocabulary, of students (``rdsdk finetune``) or of Tdnns
            (``rdsdk teach``), or names of bundled ones; none imitates nobody.
        weight: of the imitation beside the other losses; all are means over frames.
        whole: teachers that stream hear each recording as a whole, instead of in their own
            context.
        copy_extractor: the student begins with the convolutional front end of its first teacher
            that is a student. With ``optimisation.freeze_extractor`` both then hear the same
            frames, made once.
    """

    teachers: tuple[str, ...] = ()
    weight: float = 0.5
    whole: bool = False
    copy_extractor: bool = False

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"imitation.weight must be positive, got {self.weight}; to imitate nobody leave "
                "imitation.teachers out"
            )
        if not self.teachers and (self.whole or self.copy_extractor):
            raise ConfigError(
                "imitation.whole and imitation.copy_extractor need imitation.teachers; name some, "
                "or leave them out"
            )

    def load(self, vocabulary: Vocabulary) -> tuple[Imitated, ...]:
        """The frozen teachers.

        Raises:
            CheckpointError: a folder holds no whole checkpoint.
            ConfigError: a teacher writes other symbols.
        """
        return tuple(_load(Path(folder), vocabulary) for folder in self.teachers)


def load_imitated(folder: Path) -> tuple[Imitated, Vocabulary | None]:
    """A student or a Tdnn, and the symbols that it writes, from a folder or by a bundled name.

    Raises:
        CheckpointError: the folder holds no whole checkpoint.
    """
    if tdnn.is_saved(folder):
        known = tdnn.load(folder)
        return known.tdnn, known.vocabulary
    loaded = checkpoint.load(folder)
    return loaded.student, loaded.vocabulary


def _load(folder: Path, vocabulary: Vocabulary) -> Imitated:
    teacher, written = load_imitated(folder)
    theirs = None if written is None else written.symbols
    if theirs != vocabulary.symbols:
        raise ConfigError(
            f"of imitation.teachers, {folder} writes {theirs}, the student {vocabulary.symbols}; "
            "both must write the same symbols"
        )
    return teacher.requires_grad_(False).eval()


def first_student(teachers: Sequence[Imitated]) -> Student:
    """The first teacher with an extractor that a student can take over.

    Raises:
        ConfigError: there is none.
    """
    for teacher in teachers:
        if isinstance(teacher, Student):
            return teacher
    raise ConfigError(
        "imitation.copy_extractor needs a student among imitation.teachers, whose front end can "
        "be taken; a Tdnn has none"
    )


def hear_alike(teacher: Imitated, student: Student) -> bool:
    """Whether the student's extractor is the teacher's, with the same weights."""
    return isinstance(teacher, Student) and of_extractor(teacher) == of_extractor(student)


def imitation_loss(student: Tensor, teacher: Tensor, frame_counts: Tensor) -> Tensor:
    """KL(teacher || student), mean over real frames.

    Args:
        student, teacher: log_probs (B, T, V).
        frame_counts: (B,) real frames of each row; what is said of padding does not count.
    """
    real = real_frames(frame_counts.to(student.device), student.shape[1])
    # Filled first: what is said of padding may be anything, and NaN times zero is NaN.
    teacher = teacher.float().masked_fill(~real[..., None], 0.0)
    divergence = (teacher.exp() * (teacher - student.float())).sum(dim=-1)
    return divergence.masked_fill(~real, 0.0).sum() / frame_counts.sum()


@torch.no_grad()
def teacher_log_probs(
    teachers: Sequence[Imitated], batch: Batch, whole: bool = False, alike: Sequence[bool] = ()
) -> Tensor:
    """What teachers together say of unmasked recordings: (B, T, V), normalised.

    Args:
        whole: those that stream hear each recording as a whole, not in their own context.
        alike: which of them may hear the batch's frames in place of its sound; all, if empty.
    """
    context: Literal["full", "configured"] = "full" if whole else "configured"
    said = []
    for index, teacher in enumerate(teachers):
        if isinstance(teacher, Tdnn):
            said.append(teacher(batch.waveforms, sample_counts=batch.sample_counts).log_probs)
            continue
        takes_frames = not alike or alike[index]
        heard = batch if takes_frames else replace(batch, frames=None)
        said.append(log_probs_of(teacher, heard, context=context))
    if len(said) == 1:
        return said[0]
    return mean_log_probs(said)


def imitating(
    module: L.LightningModule,
    log_probs: Tensor,
    batch: Batch,
    teachers: Sequence[Imitated],
    imitation: Imitation,
    alike: Sequence[bool] = (),
) -> Tensor | float:
    """What learning from teachers adds to the loss of a training step, logged; 0 without any.

    What they said once, if the batch brings it, is taken instead of asking them. ``alike`` is as in
    ``teacher_log_probs``.
    """
    said = batch.teacher_log_probs
    if said is None:
        if not teachers:
            return 0.0
        said = teacher_log_probs(teachers, batch, imitation.whole, alike)
    counts = batch.frame_counts
    loss = shared(module, imitation_loss(log_probs, said, counts), counts.sum())
    module.log("train/imitation", loss.detach(), batch_size=len(batch.ids))
    return imitation.weight * loss


@torch.no_grad()
def heard_once(student: Student, batch: Batch) -> Batch:
    """The batch with what a frozen extractor makes of its waveforms, for all that share it."""
    return replace(batch, frames=student.extractor(batch.waveforms))
