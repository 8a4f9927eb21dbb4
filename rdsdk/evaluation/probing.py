"""A small head on a frozen model: the LightningModule. Shapes as in ``probe_head``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdsdk.data.batch import Batch, frame_count
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.probe_head import (
    HeadCheckpoint,
    HeadSettings,
    ProbeHead,
    spans,
)
from rdsdk.evaluation.transcribers import Transcriber
from rdsdk.evaluation.wer import error_rates
from rdsdk.models.config import RECEPTIVE_FIELD_SAMPLES
from rdsdk.training.steps import micro_step, refuse_non_finite
from rdsdk.training.teachers import Teacher


@dataclass(frozen=True)
class ProbeOptimisation:
    """How a head learns: Adam at one learning rate.

    Args:
        steps: optimiser steps of the whole run.
        learning_rate: Adam's.
        clip_norm: gradients are scaled down to this norm.
    """

    steps: int = 100_000
    learning_rate: float = 1e-2
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ConfigError(
                "optimisation needs steps >= 1 and a positive learning_rate and clip_norm, got "
                f"{self}"
            )


@dataclass(frozen=True)
class SpecMasks:
    """Stretches of the mixture that are made zero in training (SpecAugment, arXiv 1904.08779).

    Args:
        time_masks: how many in each recording.
        time_frames: the most frames of one.
        channel_masks: how many in each recording, over all its frames.
        channels: the most channels of one.
    """

    time_masks: int = 0
    time_frames: int = 40
    channel_masks: int = 0
    channels: int = 50

    def __post_init__(self) -> None:
        if min(self.time_masks, self.time_frames, self.channel_masks, self.channels) < 0:
            raise ConfigError(f"masks cannot have negative numbers, got {self}")


class Probing(L.LightningModule):
    """CTC over a vocabulary's symbols, by a head alone.

    ``upstream`` is no submodule: it is neither trained nor saved, nor does a strategy see it.

    Validation logs ``dev/loss`` and ``dev/per`` (symbols are phones) or ``dev/wer`` and ``dev/cer``
    (they are characters); the first of these rates is the ``figure`` that decides.
    """

    def __init__(
        self,
        upstream: Teacher,
        vocabulary: Vocabulary,
        head: HeadSettings,
        optimisation: ProbeOptimisation,
        masks: SpecMasks,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._unregistered = (upstream,)
        self.head = ProbeHead(head, upstream.layers + 1, upstream.width, len(vocabulary))
        self.vocabulary = vocabulary
        self.optimisation = optimisation
        self.masks = masks
        self.seed = seed
        self.figure = figure_of(vocabulary)
        self._references: list[str] = []
        self._hypotheses: list[str] = []
        self._dev_loss: list[float] = []

    @property
    def upstream(self) -> Teacher:
        """The frozen model."""
        return self._unregistered[0]

    def on_fit_start(self) -> None:
        self.upstream.to(self.device)

    def checkpoint(self, provenance: dict[str, object]) -> HeadCheckpoint:
        """The head as it is now."""
        return HeadCheckpoint(self.head, self.vocabulary, provenance)

    def log_probs(self, batch: Batch, mask: Tensor | None = None) -> Tensor:
        """(B, T, V) of a batch."""
        hidden = self.upstream.hidden_states(batch.waveforms, batch.sample_counts)
        return self.head(hidden, batch.frame_counts, mask)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        # Masks and dropout come from the step's number: a resumed run draws them again alike.
        step = micro_step(self, batch_index)
        number = self.seed * 1_000_003 + step * 31 + self.global_rank
        torch.manual_seed(number)
        loss = self._loss(self.log_probs(batch, self._mask(batch, number)), batch)
        refuse_non_finite(self, loss, batch.ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        return loss

    def _mask(self, batch: Batch, number: int) -> Tensor | None:
        chosen = self.masks
        if not chosen.time_masks and not chosen.channel_masks:
            return None
        rng = torch.Generator().manual_seed(number)
        counts = batch.frame_counts.cpu()
        widths = torch.full_like(counts, self.head.width)
        frames = spans(counts, chosen.time_masks, chosen.time_frames, rng)
        # Of the batch's own length: padding may reach beyond the longest recording's frames.
        frames = F.pad(frames, (0, frame_count(batch.waveforms.shape[1]) - frames.shape[1]))
        channels = spans(widths, chosen.channel_masks, chosen.channels, rng)
        mask = frames[:, :, None] | channels[:, None, :]
        return mask.to(batch.waveforms.device)

    def _loss(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """-log P(text) over its length, mean over the batch, as SUPERB's."""
        return F.ctc_loss(
            log_probs.transpose(0, 1),
            batch.tokens,
            batch.frame_counts,
            batch.token_counts,
            blank=self.vocabulary.blank,
            zero_infinity=True,
        )

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        log_probs = self.log_probs(batch)
        self._dev_loss.append(float(self._loss(log_probs, batch)))
        best = log_probs.argmax(dim=-1).cpu()
        for row, frames, text in zip(best, batch.frame_counts, batch.texts, strict=True):
            self._hypotheses.append(self.vocabulary.greedy(row[: int(frames)].tolist()))
            self._references.append(text)

    def on_validation_epoch_end(self) -> None:
        rates = error_rates(self._references, self._hypotheses)
        figures = {
            self.figure: rates.wer,
            "dev/loss": float(np.mean(self._dev_loss)) if self._dev_loss else 0.0,
        }
        if self.vocabulary.word_boundary is not None:
            figures["dev/cer"] = rates.cer
        self.log_dict(figures, prog_bar=True, sync_dist=True)
        self._references.clear()
        self._hypotheses.clear()
        self._dev_loss.clear()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.head.parameters(), self.optimisation.learning_rate)


def figure_of(vocabulary: Vocabulary) -> str:
    """The error rate of a validation that tells how good a head is."""
    return "dev/per" if vocabulary.word_boundary is None else "dev/wer"


def probe_transcriber(
    upstream: Teacher, head: ProbeHead, vocabulary: Vocabulary, device: torch.device
) -> Transcriber:
    """Samples (S,) at 16 kHz -> text, greedily: one recording at a time, so that no padding counts.

    What is shorter than a frame is padded to one.
    """
    upstream.to(device)
    head.to(device).eval()

    def transcribe(samples: NDArray[np.float32]) -> str:
        samples = np.pad(samples, (0, max(0, RECEPTIVE_FIELD_SAMPLES - len(samples))))
        waveform = torch.from_numpy(samples)[None].to(device)
        counts = torch.tensor([len(samples)], device=device)
        with torch.inference_mode():
            log_probs = head(upstream.hidden_states(waveform, counts), frame_count(counts))
        return vocabulary.greedy(log_probs[0].argmax(dim=-1).tolist())

    return transcribe
