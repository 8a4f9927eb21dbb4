"""Aligned phones -> a ``Tdnn`` that knows them: the LightningModule. Shapes as there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rdsdk.data.batch import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.wer import error_rates
from rdsdk.models.tdnn import Tdnn, TdnnCheckpoint
from rdsdk.training.frame_classification import aligned, classification_loss, target_count
from rdsdk.training.imitation import Imitated, Imitation, imitating
from rdsdk.training.masking import span_mask
from rdsdk.training.schedule import warmup_cosine
from rdsdk.training.sequence_loss import PhoneTrigram, known_frames, lattice_free_mmi
from rdsdk.training.steps import micro_step, refuse_non_finite, seed_step, shared


@dataclass(frozen=True)
class TdnnOptimisation:
    """How weights move.

    Args:
        steps: optimiser steps of the whole run.
        learning_rate: at its peak; linear warm-up over ``warmup_steps``, at the peak for
            ``held_steps``, then a cosine down to a share ``last_rate`` of it.
        weight_decay: AdamW's, on matrices only.
        clip_norm: gradients are scaled down to this norm.
        average_decay: of the exponential moving average of the weights, which is what is
            validated and kept.
    """

    steps: int = 6_000
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    held_steps: int = 1_800
    last_rate: float = 0.03
    weight_decay: float = 1e-2
    clip_norm: float = 2.0
    average_decay: float = 0.9985

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or not 0 < self.average_decay < 1:
            raise ConfigError(
                "optimisation needs steps >= 1, learning_rate > 0 and average_decay in (0, 1), "
                f"got {self}"
            )


@dataclass(frozen=True)
class TdnnRegularisation:
    """What is held against learning by heart, and which losses beside that over sequences.

    Args:
        frame_mask_probability: share of frames that are not heard, in spans of
            ``frame_mask_span`` frames (SpecAugment, arXiv 1904.08779, section 2).
        band_masks: stretches of mel bands that are not heard in an utterance, each of up to
            ``band_mask_width``.
        start_steps: over these the weight of classifying single frames falls from 1 to
            ``classification_weight``; a sequence loss alone begins slowly.
        classification_weight: of classifying frames by the output that is searched.
        second_weight: of classifying them by the second output.
    """

    frame_mask_probability: float = 0.06
    frame_mask_span: int = 8
    band_masks: int = 2
    band_mask_width: int = 15
    start_steps: int = 300
    classification_weight: float = 0.1
    second_weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.frame_mask_probability < 1.0 or self.frame_mask_span < 1:
            raise ConfigError(
                f"frame_mask_probability is {self.frame_mask_probability} and frame_mask_span "
                f"{self.frame_mask_span}, expected a share from 0 to below 1 and a frame or more"
            )
        for name in (
            "band_masks",
            "band_mask_width",
            "start_steps",
            "classification_weight",
            "second_weight",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")


class TdnnTraining(L.LightningModule):
    """Lattice-free MMI and the classification of frames, with averaged weights.

    ``teachers`` with the same symbols add the divergence from what they say to the loss, as
    ``imitation`` has it; so does what they said once, if a batch brings it. They are no submodules.

    Validation logs ``dev/loss``, the sequence loss, which decides the best checkpoint, and
    ``dev/wer``, the symbols wrong if each frame's likeliest is taken.
    """

    def __init__(
        self,
        tdnn: Tdnn,
        vocabulary: Vocabulary,
        trigram: PhoneTrigram,
        optimisation: TdnnOptimisation,
        regularisation: TdnnRegularisation,
        seed: int = 0,
        teachers: Sequence[Imitated] = (),
        imitation: Imitation | None = None,
    ) -> None:
        super().__init__()
        self.tdnn = tdnn
        self.vocabulary = vocabulary
        self.trigram = trigram
        self.optimisation = optimisation
        self.regularisation = regularisation
        self.seed = seed
        self._unregistered = tuple(teachers)
        self.imitation = imitation or Imitation()
        decay = optimisation.average_decay
        self.average = AveragedModel(tdnn, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.average.requires_grad_(False).eval()
        self._references: list[str] = []
        self._hypotheses: list[str] = []
        self._losses: list[float] = []

    def on_fit_start(self) -> None:
        for teacher in self._unregistered:
            teacher.to(self.device)

    @property
    def kept(self) -> Tdnn:
        """What is validated and saved."""
        module = self.average.module
        assert isinstance(module, Tdnn)
        return module

    def checkpoint(self, provenance: dict[str, object]) -> TdnnCheckpoint:
        """The averaged weights as a checkpoint."""
        return TdnnCheckpoint(self.kept, self.vocabulary, provenance)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seed_step(self, self.seed, batch_index)
        chosen = self.regularisation
        targets, counts = aligned(batch), batch.frame_counts
        frame_mask, band_mask = self._masks(counts.cpu(), batch_index)
        if batch.frames is None:
            output = self.tdnn(
                batch.waveforms,
                sample_counts=batch.sample_counts,
                frame_mask=frame_mask,
                band_mask=band_mask,
            )
        else:
            output = self.tdnn.hear(
                batch.frames, counts, frame_mask=frame_mask, band_mask=band_mask
            )
        sequence = lattice_free_mmi(output.log_probs, counts, targets, self.trigram)
        sequence = shared(self, sequence, known_frames(counts, targets))
        named = target_count(targets)
        first = shared(self, classification_loss(output.log_probs, targets), named)
        second = shared(self, classification_loss(output.frame_log_probs, targets), named)
        fallen = 1.0 - self.global_step / max(1, chosen.start_steps)
        weight = max(chosen.classification_weight, fallen)
        loss = sequence + weight * first + chosen.second_weight * second
        loss = loss + imitating(self, output.log_probs, batch, self._unregistered, self.imitation)
        refuse_non_finite(self, loss, batch.ids)
        size = len(batch.ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log("train/sequence", sequence.detach(), prog_bar=True, batch_size=size)
        self.log("train/classification", first.detach(), batch_size=size)
        return loss

    def _masks(self, counts: Tensor, batch_index: int) -> tuple[Tensor, Tensor]:
        """Frames (B, T) and bands (B, M) that this step does not hear, alike after a resume."""
        chosen, bands = self.regularisation, self.tdnn.config.mel_bands
        step = micro_step(self, batch_index)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step * 31 + self.global_rank)
        frame_mask = span_mask(
            len(counts), counts, chosen.frame_mask_probability, chosen.frame_mask_span, rng
        )
        shape = (len(counts), chosen.band_masks, 1)
        widths = torch.randint(0, min(chosen.band_mask_width, bands) + 1, shape, generator=rng)
        first = (torch.rand(shape, generator=rng) * (bands - widths + 1)).long()
        band = torch.arange(bands)
        band_mask = ((band >= first) & (band < first + widths)).any(dim=1)
        return frame_mask.to(self.device), band_mask.to(self.device)

    def optimizer_step(self, *arguments: Any, **others: Any) -> None:
        super().optimizer_step(*arguments, **others)
        # Here and not at the batch's end, where callbacks that save come first.
        self.average.update_parameters(self.tdnn)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        counts = batch.frame_counts
        output = self.kept(batch.waveforms, sample_counts=batch.sample_counts)
        loss = lattice_free_mmi(output.log_probs, counts, aligned(batch), self.trigram)
        self._losses.append(float(loss))
        best = output.log_probs.argmax(dim=-1).cpu()
        for row, frames, text in zip(best, counts.tolist(), batch.texts, strict=True):
            self._hypotheses.append(self.vocabulary.greedy(row[:frames].tolist()))
            self._references.append(text)

    def on_validation_epoch_end(self) -> None:
        rates = error_rates(self._references, self._hypotheses)
        figures = {"dev/loss": float(np.mean(self._losses)), "dev/wer": rates.wer}
        self.log_dict(figures, prog_bar=True, sync_dist=True)
        for gathered in (self._references, self._hypotheses, self._losses):
            gathered.clear()

    def configure_optimizers(self) -> Any:
        chosen = self.optimisation
        learning = [each for each in self.parameters() if each.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [each for each in learning if each.ndim > 1]},
            {"params": [each for each in learning if each.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(
            groups, lr=chosen.learning_rate, betas=(0.9, 0.98), weight_decay=chosen.weight_decay
        )

        def factor(step: int) -> float:
            return warmup_cosine(
                step, chosen.steps, chosen.warmup_steps, chosen.last_rate, chosen.held_steps
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
