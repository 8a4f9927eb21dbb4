"""What watches a run: the best checkpoint kept, and interruptions that lose nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rdsdk.models import checkpoint

Save = Callable[[Path, Any], Path]
"""Writes what a module's ``checkpoint`` gave into a folder."""


class KeepBest(Callback):
    """After each validation: ``last/`` always, ``best/`` when the watched figure improved.

    Steps after the last validation are kept too, in ``last/``, when the run ends.
    """

    def __init__(
        self,
        folder: Path,
        figure: str,
        provenance: dict[str, object],
        save: Save = checkpoint.save,
    ) -> None:
        self.folder = folder
        self.save = save
        self.figure = figure
        self.provenance = provenance
        self.best = float("inf")
        self._kept_step = 0

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step == self._kept_step:
            return
        kept = module.checkpoint({**self.provenance, "dev": {"step": trainer.global_step}})  # type: ignore[operator]
        if not trainer.is_global_zero:
            return
        self.save(self.folder / "last", kept)
        if not (self.folder / "best").exists():
            self.save(self.folder / "best", kept)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        figures = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("dev/")
        }
        # Digits and not decimals: some losses are small numbers.
        written = {name: float(f"{value:.5g}") for name, value in figures.items()}
        record = {"step": trainer.global_step, **written}
        # Before the others are let go: of a sharded student each has only a part.
        kept = module.checkpoint({**self.provenance, "dev": record})  # type: ignore[operator]
        self._kept_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        with (self.folder / "dev.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        self.save(self.folder / "last", kept)
        if figures[self.figure] < self.best:
            self.best = figures[self.figure]
            self.save(self.folder / "best", kept)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class Interruption(Callback):
    """Ctrl-C and SIGTERM end the run after the current step, with everything needed to resume.

    A second Ctrl-C ends it at once. ``interrupted`` tells the caller afterwards.
    """

    def __init__(self, resume_file: Path, every_steps: int) -> None:
        self.resume_file = resume_file
        self.every_steps = every_steps
        self.interrupted = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Set here, not earlier: the trainer installs handlers of its own just before this hook.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # An epoch's last batch ends a step too, however few were accumulated.
        at_boundary = trainer.is_last_batch or (
            (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        )
        # Every process must agree, or one would wait for the others for ever.
        stopping = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        if not at_boundary:
            return
        if stopping or trainer.global_step % self.every_steps == 0:
            self.save(trainer)
        if stopping:
            self.interrupted = True
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def save(self, trainer: L.Trainer) -> None:
        """Write the resume file whole or not at all."""
        part = self.resume_file.with_suffix(".part")
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero and part.is_file():
            part.replace(self.resume_file)
        # Who is told that the run was interrupted may go on with it at once.
        trainer.strategy.barrier("rdsdk.Interruption.save")

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
