"""A recogniser also learns what its teacher would have written, frame by frame.

Knowledge distillation of outputs (Hinton et al., arXiv 1503.02531) beside the other losses: the
teacher, of the same vocabulary, hears all frames, the student the masked ones in the context of the
batch.

Shapes: B batch, T frames, V symbols.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdsdk.data.batch import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.student import Student
from rdsdk.training.losses import real_frames
from rdsdk.training.steps import log_probs_of


@dataclass(frozen=True)
class Imitation:
    """Whose log_probs are imitated, and how much that counts.

    Args:
        teacher: a checkpoint folder with the same vocabulary; None imitates nobody.
        weight: of the imitation beside the other losses; all are means over frames.
        whole: a teacher that streams hears each recording as a whole, instead of in its own
            context.
        copy_extractor: the student begins with its teacher's convolutional front end. With
            ``optimisation.freeze_extractor`` both then hear the same frames, made once.
    """

    teacher: str | None = None
    weight: float = 0.5
    whole: bool = False
    copy_extractor: bool = False

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(
                f"imitation.weight must be positive, got {self.weight}; to imitate nobody leave "
                "imitation.teacher out"
            )
        if self.teacher is None and (self.whole or self.copy_extractor):
            raise ConfigError(
                "imitation.whole and imitation.copy_extractor need an imitation.teacher; name one, "
                "or leave them out"
            )

    def load(self, vocabulary: Vocabulary) -> Student | None:
        """The frozen teacher.

        Raises:
            CheckpointError: the folder holds no whole checkpoint.
            ConfigError: the teacher writes other symbols.
        """
        if self.teacher is None:
            return None
        loaded = checkpoint.load(self.teacher)
        theirs = None if loaded.vocabulary is None else loaded.vocabulary.symbols
        if theirs != vocabulary.symbols:
            raise ConfigError(
                f"imitation.teacher {self.teacher} writes {theirs}, the student "
                f"{vocabulary.symbols}; both must write the same symbols"
            )
        return loaded.student.requires_grad_(False).eval()


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
def teacher_log_probs(teacher: Student, batch: Batch, whole: bool = False) -> Tensor:
    """What the teacher says of unmasked recordings, in its own context or hearing each as a whole:
    (B, T, V). Frames in the batch are those of its extractor, too."""
    return log_probs_of(teacher, batch, context="full" if whole else "configured")


@torch.no_grad()
def heard_once(student: Student, batch: Batch) -> Batch:
    """The batch with what a frozen extractor makes of its waveforms, for all that share it."""
    return replace(batch, frames=student.extractor(batch.waveforms))
