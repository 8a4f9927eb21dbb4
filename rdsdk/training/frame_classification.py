"""What each frame is, by an alignment: the loss of a frame classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rdsdk.data.alignment import PADDING
from rdsdk.data.batch import Batch
from rdsdk.errors import DataError


def aligned(batch: Batch) -> Tensor:
    """The targets of a batch's frames, (B, T).

    Raises:
        DataError: none of its utterances has an alignment.
    """
    if batch.frame_targets is None:
        raise DataError(
            "losses over frames and sequences need utterances with an alignment, and none of the "
            f"batch has one: {', '.join(batch.ids)}; make such a corpus (rdsdk prepare phones)"
        )
    return batch.frame_targets


def classification_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """-log P(target), mean over the frames that have one; 0 for a batch in which none has.

    Args:
        log_probs: (B, T, V).
        targets: (B, T).
    """
    total = F.nll_loss(log_probs.transpose(1, 2), targets, ignore_index=PADDING, reduction="sum")
    return total / (targets != PADDING).sum().clamp(min=1)
