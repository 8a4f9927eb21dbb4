"""What each frame is, by an alignment: the loss of a frame classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rdsdk.data.alignment import PADDING
from rdsdk.data.batch import Batch


def aligned(batch: Batch) -> Tensor:
    """The targets of a batch's frames, (B, T); none where it has no utterance with an alignment."""
    if batch.frame_targets is None:
        return torch.full(
            (len(batch.ids), int(batch.frame_counts.max())), PADDING, device=batch.waveforms.device
        )
    return batch.frame_targets


def target_count(targets: Tensor) -> Tensor:
    """How many frames have a target."""
    return (targets != PADDING).sum()


def classification_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """-log P(target), mean over the frames that have one; 0 for a batch in which none has.

    Args:
        log_probs: (B, T, V).
        targets: (B, T).
    """
    total = F.nll_loss(log_probs.transpose(1, 2), targets, ignore_index=PADDING, reduction="sum")
    return total / target_count(targets).clamp(min=1)
