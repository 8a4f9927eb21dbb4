"""What two processes leave behind under torchrun, for test_sharding.py to look at.

``torchrun --nproc-per-node 2 sharded_runs.py FOLDER TEACHER DISTIL_RECIPE FINETUNE_RECIPE``. All in
one pair of processes: their imports take longer than any of the runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distil_gradients
import lightning as L
import torch
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh

from rdsdk.errors import CheckpointError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training import cli, distill, resuming, run
from rdsdk.training.callbacks import KeepBest
from rdsdk.training.sharding import shard

STOP_STEP = 2


class Stopped(KeepBest):
    """Interrupts the second process only."""

    state_key = "KeepBest"  # lightning finds a callback's state by it

    def on_train_batch_start(self, trainer: L.Trainer, *others: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == STOP_STEP - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def stopping() -> Iterator[None]:
    run.KeepBest = Stopped  # type: ignore[misc]
    yield
    run.KeepBest = KeepBest  # type: ignore[misc]


def interrupted(
    main: Callable[[Sequence[str]], int], output: Path, first: list[str], then: list[str]
) -> None:
    """A run stopped after two steps and gone on with; its resume file stays as ``stopped.ckpt``."""
    with stopping():
        assert main([*first, f"--output={output}"]) == resuming.INTERRUPTED
    if os.environ["RANK"] == "0":
        shutil.copy(output / resuming.RESUME_FILE, output / "stopped.ckpt")
    assert main([*then, f"--output={output}", "--resume"]) == 0


def ungathered(folder: Path) -> None:
    """A sharded student saved as it is, and this process's parts of its weights as if whole."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))
    student = Student(preset("tiny"))
    shard(student, mesh)
    mine = folder / f"ungathered{os.environ['RANK']}"
    try:
        checkpoint.save(mine, Checkpoint(student))
    except CheckpointError as error:
        (folder / f"refused{os.environ['RANK']}").write_text(str(error))
    parts = checkpoint.save(
        folder / f"parts{os.environ['RANK']}", Checkpoint(Student(preset("tiny")))
    )
    local = {n: v.to_local().contiguous() for n, v in student.state_dict().items()}
    save_file(local, parts / checkpoint.WEIGHTS)


def main(folder: str, teacher: str, distil_recipe: str, finetune_recipe: str) -> None:
    out = Path(folder)
    distil_gradients.main(teacher, str(out / "fsdp.pt"), "2", "fsdp")
    distil_gradients.main(teacher, str(out / "ddp.pt"), "2")
    distil_gradients.main(teacher, str(out / "own-frames.pt"), "2", "own-frames")
    ungathered(out)

    distil = ["--config", distil_recipe, "hardware.strategy=fsdp"]
    assert distill.main([*distil, f"output={out / 'distil-fsdp'}"]) == 0
    assert distill.main([*distil, f"output={out / 'distil-ddp'}", "hardware.strategy=ddp"]) == 0
    interrupted(distill.main, out / "distil-interrupted", distil, distil)

    finetune = ["--config", finetune_recipe, "hardware.strategy=fsdp"]
    ddp = [*finetune, "hardware.strategy=ddp_find_unused_parameters_true"]
    assert cli.main([*finetune, f"output={out / 'finetune-fsdp'}"]) == 0
    interrupted(cli.main, out / "finetune-from-ddp", ddp, finetune)
    interrupted(cli.main, out / "finetune-to-ddp", finetune, ddp)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*sys.argv[1:])
