"""What a student is asked to match in its teacher: pure functions of tensors.

Shapes: B batch, T frames, P teacher width, D any width, N layers that take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rdsdk.errors import ConfigError


class FrameLosses(NamedTuple):
    """Masking distillation's two terms, one entry a layer; not weighted yet."""

    masked: Tensor
    """L_m (N,): masked frames, against the teacher's unmasked pass."""
    unmasked: Tensor
    """L_u (N,): unmasked frames, against the teacher's masked pass."""


def real_frames(frame_counts: Tensor, length: int) -> Tensor:
    """(B,) -> (B, T) bool: True where a frame is no padding."""
    return torch.arange(length, device=frame_counts.device) < frame_counts[:, None]


def frame_losses(
    predictions: Sequence[Tensor],
    unmasked: Sequence[Tensor],
    masked: Sequence[Tensor] | None,
    frame_mask: Tensor,
    frame_counts: Tensor,
    frames: Tensor | None = None,
) -> FrameLosses:
    """Masking distillation (arXiv 2305.11685, section 3.3), as its released code computes it.

    For each layer the squared error to the teacher, averaged over channels: at masked frames to
    what the teacher says of the unmasked input (what the student must infer), at unmasked frames to
    what it says of the masked input (what the student sees too). Each is summed over its frames
    and divided by all real frames, masked or not. Padding takes no part, unlike in the released
    code, which counts it among the unmasked frames.

    Args:
        predictions: the student's, of the masked input, through its heads: N times (B, T, P).
        unmasked: the teacher's layers that these learn from, N times (B, T, P).
        masked: the same of the masked input; None compares all frames with ``unmasked``.
        frame_mask: (B, T) True where the input was masked.
        frame_counts: (B,) real frames of each row.
        frames: what to divide by; None is the sum of ``frame_counts``. With several processes:
            the mean over processes of that sum, which makes their mean gradient that of one
            process with the whole batch.
    """
    if not len(predictions) == len(unmasked) == len(unmasked if masked is None else masked):
        raise ConfigError(
            f"each of {len(predictions)} student layers needs a teacher layer, got {len(unmasked)} "
            f"unmasked and {None if masked is None else len(masked)} masked"
        )
    real = real_frames(frame_counts, frame_mask.shape[1])
    divisor = frame_counts.sum() if frames is None else frames
    at_masked = (frame_mask & real).float()
    at_unmasked = (~frame_mask & real).float()
    masked_terms, unmasked_terms = [], []
    for layer, prediction in enumerate(predictions):
        target = unmasked[layer]
        if masked is not None:
            target = torch.where(frame_mask[..., None], target, masked[layer])
        # Not multiplied by zero, and before anything has a gradient: what a teacher says of padding
        # may be anything, NaN included.
        difference = (prediction.float() - target.float()).masked_fill(~real[..., None], 0.0)
        errors = difference.square().mean(dim=-1)
        masked_terms.append((errors * at_masked).sum() / divisor)
        unmasked_terms.append((errors * at_unmasked).sum() / divisor)
    return FrameLosses(torch.stack(masked_terms), torch.stack(unmasked_terms))


def layer_weights(layers: int, below: float = 0.1, last: float = 1.0) -> tuple[float, ...]:
    """0.1 for each layer below the last and 1.0 for the last, as published."""
    return (*(below for _ in range(layers - 1)), last)


def matched_layers(
    student_layers: int, teacher_layers: int, chosen: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The teacher layer, counted from 0, that each student layer learns from.

    One to one for equal depths. Otherwise evenly spread, the last from the last: student layer i
    of n from teacher layer round(i m / n) of m, counted from 1. ``chosen`` says it outright.

    Raises:
        ConfigError: ``chosen`` names a layer the teacher lacks, or not one for each student layer.
    """
    if chosen is None:
        return tuple(
            max(1, (2 * (layer + 1) * teacher_layers + student_layers) // (2 * student_layers)) - 1
            for layer in range(student_layers)
        )
    if len(chosen) != student_layers or not all(0 <= layer < teacher_layers for layer in chosen):
        raise ConfigError(
            f"teacher_layers must name one of the teacher's layers 0 to {teacher_layers - 1} for "
            f"each of the student's {student_layers}, got {list(chosen)}"
        )
    return tuple(chosen)


class RelationLosses(NamedTuple):
    """The two terms of the temporal-relation loss, each a mean over its layers."""

    layer: Tensor
    intra_layer: Tensor


def temporal_gram(first: Tensor, second: Tensor) -> Tensor:
    """Temporal Gram matrix (B, T, T): entry (t, u) is the mean over channels of first_t second_u.

    ``first`` and ``second`` are (B, T, D). A mean and no sum, so that students and teachers of
    different widths can be compared. In float32 whatever the rest of a run is in: what is compared
    are small differences.
    """
    with torch.autocast(first.device.type, enabled=False):
        return torch.bmm(first.float(), second.float().transpose(1, 2)) / first.shape[-1]


def relation_losses(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    frame_counts: Tensor,
    pairs: Tensor | None = None,
) -> RelationLosses:
    """STaR's speech temporal relation (arXiv 2312.09040): how frames relate, not what they are.

    Layer-wise: the Gram matrix of a layer's output with itself. Intra-layer: that of a layer's
    input with its output. Both are compared by squared error, and no projection head is needed.
    What follows are decisions, as the authors released no distillation code and only their abstract
    and summary were at hand: Gram matrices are means over channels (see ``temporal_gram``); errors
    are averaged over the pairs of real frames of the batch and over layers; both terms weigh the
    same; the student is not shown masks for it (unless frame losses mask the same pass) and learns
    from the teacher's unmasked pass; a layer's input is the output of the one before in ``student``
    and ``teacher``, so the first layer has no intra-layer term.

    Args:
        student: N times (B, T, D), in order of depth.
        teacher: the layers these learn from, N times (B, T, P).
        frame_counts: (B,) real frames of each row.
        pairs: what to divide by; None is the sum of squared ``frame_counts`` (see
            ``frame_losses`` on several processes).
    """
    if len(student) != len(teacher):
        raise ConfigError(f"{len(student)} student layers but {len(teacher)} teacher layers")
    real = real_frames(frame_counts, student[0].shape[1])
    # Before they meet: NaN in padding would reach the gradients of what is real.
    padding = ~real[..., None]
    student = [states.masked_fill(padding, 0.0) for states in student]
    teacher = [states.masked_fill(padding, 0.0) for states in teacher]
    divisor = frame_counts.square().sum() if pairs is None else pairs

    def error(layer: int, other: int) -> Tensor:
        ours = temporal_gram(student[layer], student[other])
        theirs = temporal_gram(teacher[layer], teacher[other])
        return (ours - theirs).square().sum() / divisor

    depth = len(student)
    layer_terms = torch.stack([error(layer, layer) for layer in range(depth)])
    intra_terms = [error(layer, layer + 1) for layer in range(depth - 1)]
    intra = torch.stack(intra_terms).mean() if intra_terms else layer_terms.new_zeros(())
    return RelationLosses(layer_terms.mean(), intra)
