"""How much audio a run gets through, and where its time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from rdsdk.models.config import SAMPLE_RATE

_Mark = float | torch.cuda.Event


class Stopwatch:
    """Seconds by name. On a GPU they are those of its own queue, read only when asked for."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[_Mark, _Mark]]] = defaultdict(list)

    @contextmanager
    def span(self, name: str, device: torch.device) -> Iterator[None]:
        """Count what happens inside as ``name``."""
        begin = _mark(device)
        yield
        self._spans[name].append((begin, _mark(device)))

    def read(self) -> dict[str, float]:
        """The seconds of each name since the last reading."""
        seconds = {
            name: sum(_between(*span) for span in spans) for name, spans in self._spans.items()
        }
        self._spans.clear()
        return seconds


def _mark(device: torch.device) -> _Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: _Mark, end: _Mark) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float)
        assert isinstance(end, float)
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000


class Throughput(Callback):
    """Logs, every so many batches, over the time since the last such moment:

    ``speed/audio_hours_per_hour`` of all processes together, padding not counted (the progress bar
    shows it too), and as shares of that time ``time/teacher`` and ``time/student`` (its forward
    pass and the loss), ``time/data`` (waiting for batches) and ``time/rest`` (backward, update,
    everything else). Validation is not in it.
    """

    def __init__(self, every_batches: int = 20) -> None:
        self.every_batches = every_batches
        self._restart()

    def _restart(self) -> None:
        self._batches = 0
        self._audio_seconds = self._seconds = self._waited = 0.0
        self._last = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._pass("_waited")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._batches += 1
        self._audio_seconds += int(batch.sample_counts.sum()) / SAMPLE_RATE
        if self._batches < self.every_batches:
            self._pass()
            return
        spans = pl_module.stopwatch.read()  # type: ignore[union-attr, operator]
        self._pass()
        # Processes get batches of about the same length at each step.
        speed = self._audio_seconds * trainer.world_size / self._seconds
        pl_module.log("speed/audio_hours_per_hour", speed, prog_bar=True, batch_size=1)
        shares = {name: seconds / self._seconds for name, seconds in spans.items()}
        shares["data"] = self._waited / self._seconds
        shares["rest"] = max(0.0, 1.0 - sum(shares.values()))
        for name, share in shares.items():
            pl_module.log(f"time/{name}", share, batch_size=1)
        self._restart()

    def _pass(self, also: str | None = None) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last
        if also is not None:
            setattr(self, also, getattr(self, also) + now - self._last)
        self._last = now
