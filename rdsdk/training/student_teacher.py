"""Our own checkpoints as teachers: a student, or a full-context model trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.student import Student
from rdsdk.training.teachers import Precision, Teacher


class StudentTeacher(Teacher):
    """A student, frozen where it is; padding is hidden as it does.

    Args:
        student: the model; its heads are not used.
        name: for people and for provenance.
        whole: each frame of a streaming student hears the whole recording, instead of its
            configured context.
        precision, one_batch: see ``Teacher``.
    """

    def __init__(
        self,
        student: Student,
        name: str,
        *,
        whole: bool = False,
        precision: Precision = "auto",
        one_batch: bool | None = None,
    ) -> None:
        config = student.config
        super().__init__(
            name,
            config.layers,
            config.width,
            config.heads,
            mask_embedding=student.encoder.mask_embedding.detach(),
            precision=precision,
            one_batch=one_batch,
        )
        self.student = student
        self.whole = whole
        self._freeze()

    def _extract(self, waveforms: Tensor) -> Tensor:
        return self.student.frames(waveforms)

    def _encode(
        self, features: Tensor, frame_counts: Tensor | None, frame_mask: Tensor | None
    ) -> list[Tensor]:
        hidden, _ = self.student.encoder(
            features,
            frame_counts=frame_counts,
            frame_mask=frame_mask,
            context="full" if self.whole else "configured",
        )
        return hidden

    def _first_layer(self) -> nn.Module:
        return self.student.encoder.layers[0]

    def _maps(self, features: Tensor, frame_counts: Tensor | None) -> list[Tensor]:
        maps: list[Tensor] = []
        frames = features.shape[1]
        context = None if self.whole else self.student.config.context
        left = context.left_frames if context else 0
        # Frames that come again as right context, in the order of ``right_of_chunks``; what is
        # beyond the last frame has no weight.
        again = torch.tensor(
            [
                min(chunk + context.chunk_frames + ahead, frames - 1)
                for chunk in range(0, frames, context.chunk_frames)
                for ahead in range(context.right_frames)
            ]
            if context
            else [],
            dtype=torch.long,
            device=features.device,
        )

        def keep(layer: Any, arguments: Any) -> None:
            # (N, T + C, L + T + C): the L remembered frames of a fresh state hold nothing.
            seen = arguments[1][:, :frames, left:].float()
            map_ntt = seen[..., :frames].index_add(2, again, seen[..., frames:])
            maps.append(map_ntt.unflatten(0, (-1, self.heads)))

        handles = [layer.register_forward_pre_hook(keep) for layer in self.student.encoder.layers]
        try:
            self._encode(features, frame_counts, None)
        finally:
            for handle in handles:
                handle.remove()
        return maps


def load_student(
    folder: Path,
    *,
    whole: bool = False,
    precision: Precision = "auto",
    one_batch: bool | None = None,
) -> StudentTeacher:
    """A checkpoint folder -> a teacher; the other arguments are those of ``StudentTeacher``.

    Raises:
        CheckpointError: the folder is damaged or incomplete.
    """
    student = checkpoint.load(folder).student
    return StudentTeacher(
        student, folder.name, whole=whole, precision=precision, one_batch=one_batch
    )


def copy_extractor(teacher: Teacher, student: Student, frozen: bool) -> None:
    """Give a student the convolutional front end of its teacher, to start from or to keep.

    Args:
        teacher: a ``StudentTeacher``.
        student: changed in place.
        frozen: the copy gets no gradients.

    Raises:
        ConfigError: the teacher is no rdsdk checkpoint, or its extractor is another one.
    """
    if not isinstance(teacher, StudentTeacher):
        raise ConfigError(
            f"student.extractor copies from rdsdk checkpoints only, and {teacher.name} is none; "
            'use "random"'
        )
    copy_front_end(teacher.student, student)
    if frozen:
        for part in (student.extractor, student.encoder.frame_norm):
            part.requires_grad_(False)


def copy_front_end(source: Student, student: Student) -> None:
    """Give a student the convolutional front end of another one.

    It is the extractor, without energies beside it, and the norm of its frames; what is wider or
    narrower than in the source begins with the projection behind them.

    Args:
        source: left as it is.
        student: changed in place.

    Raises:
        ConfigError: the source's extractor is another one.
    """
    for name in ("convs", "conv_bias", "extractor_norm", "first_norm_epsilon"):
        got, expected = getattr(student.config, name), getattr(source.config, name)
        if got != expected:
            raise ConfigError(
                f"the student cannot begin with its teacher's extractor, whose {name} is "
                f"{expected}; the student's is {got}: choose a student with the same, or let it "
                "begin with its own"
            )
    student.extractor.load_state_dict(source.extractor.state_dict())
    student.encoder.frame_norm.load_state_dict(source.encoder.frame_norm.state_dict())
