"""What every training step has in common, whatever is learnt in it."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from rdsdk.errors import TrainingError


def micro_step(module: L.LightningModule, batch_index: int) -> int:
    """The number of this batch in the run, accumulated ones counted.

    The same number after a resume, so that whatever is drawn from it is drawn again alike.
    """
    accumulated = module.trainer.accumulate_grad_batches
    return module.global_step * accumulated + batch_index % accumulated


def refuse_non_finite(module: L.LightningModule, loss: Tensor, ids: list[str]) -> None:
    """Stop before the update when a loss is infinite or NaN, in all processes together.

    Raises:
        TrainingError: names the utterances of this process's batch.
    """
    fine = bool(torch.isfinite(loss))
    # A process that stopped alone would leave the others waiting for its gradients.
    if module.trainer.strategy.reduce_boolean_decision(fine, all=True):
        return
    what = "the loss" if not fine else "the loss of another process is not finite; this one's"
    raise TrainingError(
        f"{what} is {loss.item()} at step {module.global_step}; nothing was updated. Utterances of "
        f"the batch: {', '.join(ids)}. Lower the learning rate, or look at these recordings"
    )
