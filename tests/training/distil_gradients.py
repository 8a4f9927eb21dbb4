"""Two steps of distillation in one process or two; the first one's gradients and the weights after
both are left in a file.

With own-frames each process divides by its own frames, which is what a mean over processes must not
do; with fsdp the student is sharded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from rdsdk.data.batches import Batch
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.distillation import Distillation
from rdsdk.training.distillation_settings import Chunks, Descent, Objective
from rdsdk.training.masking import Masking
from rdsdk.training.sharding import Sharded
from rdsdk.training.teachers import load_teacher

COUNTS = [16_080, 9_000, 12_000, 4_000]


def batch(rows: list[int]) -> Batch:
    rng = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(len(COUNTS), max(COUNTS), generator=rng)
    counts = torch.tensor(COUNTS)
    waveforms = waveforms * (torch.arange(max(COUNTS)) < counts[:, None])
    empty = torch.zeros(len(rows), 0, dtype=torch.int64)
    ids = [f"clip{row}" for row in rows]
    return Batch(
        waveforms[rows], counts[rows], empty, torch.zeros(len(rows)), ids, [""] * len(rows)
    )


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


class Gradients(L.Callback):
    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        if trainer.global_step == 0:
            for name, parameter in pl_module.named_parameters():
                if parameter.grad is not None:
                    self.found[name] = whole(parameter.grad).clone()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        weights = {name: whole(value) for name, value in pl_module.state_dict().items()}
        if trainer.is_global_zero:
            torch.save({"gradients": self.found, "weights": weights}, self.file)


class Shares(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        share = batch(list(range(len(COUNTS)))[rank::world])
        return DataLoader([share], batch_size=None)  # type: ignore[arg-type]


def main(teacher: str, out: str, processes: str, how: str = "all-frames") -> None:
    torch.manual_seed(0)
    student = Student(replace(preset("tiny"), dropout=0.0), projection_width=48)
    module = Distillation(
        load_teacher(teacher),
        student,
        Objective(random_layers=2, temporal_relation=0.3, layer_grad_scale="shares"),
        Masking(ratio=(0.5,)),
        Descent(steps=2),
        Chunks((4, 8, None)),
    )
    if how == "own-frames":
        module._mean_over_processes = lambda count: count.float()  # type: ignore[method-assign]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(processes),
        strategy="auto" if processes == "1" else Sharded() if how == "fsdp" else "ddp",
        max_steps=2,
        gradient_clip_val=0.1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Gradients(Path(out))],
    )
    trainer.fit(module, Shares())
