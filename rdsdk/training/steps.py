"""What every training step has in common, whatever is learnt in it."""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch
from torch import Tensor

from rdsdk.data.batch import Batch
from rdsdk.errors import TrainingError
from rdsdk.models.config import Context
from rdsdk.models.student import Student


def micro_step(module: L.LightningModule, batch_index: int) -> int:
    """The number of this batch in the run, accumulated ones counted.

    The same number after a resume, so that whatever is drawn from it is drawn again alike.
    """
    accumulated = module.trainer.accumulate_grad_batches
    return module.global_step * accumulated + batch_index % accumulated


def seed_step(module: L.LightningModule, seed: int, batch_index: int) -> int:
    """Make what a batch draws by itself, as dropout, a function of run, step and process; the step.

    Otherwise processes would all draw alike, and a resumed run as at its beginning.
    """
    step = micro_step(module, batch_index)
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + module.global_rank)
    return step


def shared(module: L.LightningModule, loss: Tensor, count: Tensor) -> Tensor:
    """A mean over the ``count`` frames of this process, so weighed that the mean over processes,
    which is what their gradients become, is one over all of their frames."""
    frames = count.to(loss.device).float()
    mean = module.trainer.strategy.reduce(frames, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return loss * (frames / mean.clamp(min=1.0))


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


def log_probs_of(
    student: Student,
    batch: Batch,
    frame_mask: Tensor | None = None,
    context: Context | Literal["full", "configured"] = "configured",
) -> Tensor:
    """What a student with a CTC head says of a batch, of its sound or of kept frames: (B, T, V)."""
    if batch.frames is None:
        output, _ = student(
            batch.waveforms,
            sample_counts=batch.sample_counts,
            frame_mask=frame_mask,
            context=context,
        )
    else:
        learnt = student.encoder.mask_embedding.dtype
        output, _ = student.hear(
            batch.frames.to(learnt),
            waveform=batch.waveforms,
            energies=None if batch.energies is None else batch.energies.to(learnt),
            frame_counts=batch.frame_counts,
            frame_mask=frame_mask,
            context=context,
        )
    assert output.log_probs is not None
    said: Tensor = output.log_probs
    return said
