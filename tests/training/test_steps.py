"""What every training step has in common, in whatever process it is."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from rdsdk.data.alignment import PADDING
from rdsdk.training.frame_classification import classification_loss, target_count
from rdsdk.training.steps import seed_step, shared


def test_what_a_step_draws_is_of_the_step_and_of_its_process() -> None:
    def drawn(step: int, batch_index: int, rank: int, accumulated: int = 1) -> float:
        module = SimpleNamespace(
            trainer=SimpleNamespace(accumulate_grad_batches=accumulated),
            global_step=step,
            global_rank=rank,
        )
        seed_step(module, 7, batch_index)  # type: ignore[arg-type]
        return float(torch.rand(()))

    assert drawn(3, 0, 0) == drawn(3, 0, 0)
    others = [drawn(3, 0, 1), drawn(4, 0, 0), drawn(3, 1, 0, accumulated=2)]
    assert len({drawn(3, 0, 0), *others}) == 4


def test_the_mean_over_processes_is_one_over_all_of_their_frames() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 50, 5).log_softmax(-1)
    targets = torch.randint(0, 5, (2, 50))
    targets[0, 10:] = PADDING
    together = classification_loss(log_probs, targets)
    counts = [target_count(targets[row : row + 1]) for row in range(2)]
    mean = torch.stack(counts).float().mean()
    module = SimpleNamespace(
        trainer=SimpleNamespace(strategy=SimpleNamespace(reduce=lambda count, reduce_op: mean))
    )
    alone = [classification_loss(log_probs[r : r + 1], targets[r : r + 1]) for r in range(2)]
    apart = [
        shared(module, loss, count)  # type: ignore[arg-type]
        for loss, count in zip(alone, counts, strict=True)
    ]
    torch.testing.assert_close(torch.stack(apart).mean(), together)
    # Negative control: a mean of means is another number.
    assert abs(torch.stack(alone).mean() - together) > 1e-2
