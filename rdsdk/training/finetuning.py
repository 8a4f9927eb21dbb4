"""Student -> CTC recogniser: the LightningModule. Shapes as in ``rdsdk.models.student``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rdsdk.data.alignment import PADDING
from rdsdk.data.batches import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.wer import ErrorRates, error_rates
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context
from rdsdk.models.student import Student
from rdsdk.training.channel_dropout import drop_channels
from rdsdk.training.context import draw_context, refuse_chunks_without_context
from rdsdk.training.flat_start import straight_alignment
from rdsdk.training.frame_classification import aligned, classification_loss, target_count
from rdsdk.training.imitation import (
    Imitated,
    Imitation,
    hear_alike,
    heard_once,
    imitating,
)
from rdsdk.training.masking import span_mask
from rdsdk.training.mel_start import MEL_BANDS, mel_loss
from rdsdk.training.schedule import warmup_cosine
from rdsdk.training.sequence_loss import PhoneTrigram, known_frames, lattice_free_mmi
from rdsdk.training.sharding import shard, shard_module, whole
from rdsdk.training.steps import log_probs_of, micro_step, refuse_non_finite, seed_step, shared


@dataclass(frozen=True)
class Optimisation:
    """How weights move.

    Args:
        steps: optimiser steps of the whole run.
        learning_rate: at its peak; linear warm-up over ``warmup_steps``, then a cosine, down to a
            share ``last_rate`` of it.
        weight_decay: AdamW's, on matrices only.
        clip_norm: gradients are scaled down to this norm.
        average_decay: of the exponential moving average of the weights, which is what is
            validated and kept; 0 keeps the last weights instead.
        extractor_factor: the extractor's learning rate over the encoder's; the encoder, normalised
            after each block, forgets its input above about 5e-4, where convolutions still learn.
        freeze_extractor: leave the convolutions as they are.
    """

    steps: int = 20_000
    learning_rate: float = 4e-4
    warmup_steps: int = 500
    last_rate: float = 0.02
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    average_decay: float = 0.999
    extractor_factor: float = 1.0
    freeze_extractor: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or not 0 <= self.average_decay < 1:
            raise ConfigError(
                "optimisation needs steps >= 1, learning_rate > 0 and average_decay in [0, 1), "
                f"got {self}"
            )
        if not 0 <= self.last_rate <= 1:
            raise ConfigError(f"last_rate is {self.last_rate}, expected a share from 0 to 1")


@dataclass(frozen=True)
class Regularisation:
    """What a batch goes through inside the model.

    Args:
        frame_mask_probability: share of frames replaced by the mask embedding, in spans of
            ``frame_mask_span`` frames (SpecAugment's time masks, arXiv 1904.08779, on frames).
        chunk_frames: one is drawn for each batch, so that one set of weights serves every latency;
            None is full context. Empty: the architecture's own context, always.
        left_frames: left context that goes with a drawn chunk; the architecture's if None.
        channel_dropout: share of the channels that are silent for a whole utterance in each layer,
            in place of the layers' own dropout; see ``rdsdk.training.channel_dropout``.
        mel_start_steps: first steps, for a student from scratch, in which the extractor learns
            log-mel energies; see ``rdsdk.training.mel_start``. With several processes they need
            the strategy ``ddp_find_unused_parameters_true`` or ``fsdp``.
        aligned_start_steps: steps after these that classify the frames of utterances with an
            alignment instead of CTC; see ``rdsdk.data.alignment``.
        sequence_steps: steps after these in which what was said in such utterances competes with
            all that could be said, instead of CTC; see ``rdsdk.training.sequence_loss``.
        classification_weight: of the loss of ``aligned_start_steps`` beside that one, which by
            itself overfits (H. Su et al. 2013, "frame smoothing").
        flat_start_steps: steps after these that learn a straight-line alignment of single words
            instead of CTC; see ``rdsdk.training.flat_start``.
    """

    frame_mask_probability: float = 0.1
    frame_mask_span: int = 5
    chunk_frames: tuple[int | None, ...] = ()
    left_frames: int | None = None
    channel_dropout: float = 0.0
    mel_start_steps: int = 0
    aligned_start_steps: int = 0
    sequence_steps: int = 0
    classification_weight: float = 0.2
    flat_start_steps: int = 0


class Finetuning(L.LightningModule):
    """CTC over a vocabulary's symbols, with random context sizes and averaged weights.

    ``sequence_steps`` need the ``trigram`` of the corpus's symbols.

    ``teachers`` with the same symbols add the divergence from what they say to the loss, as
    ``imitation`` has it; so does what they said once, if a batch brings it. They are no submodules,
    as in ``Distillation``.

    Validation logs ``dev/wer``, ``dev/cer``, ``dev/false_words`` (words recognised in recordings
    that have none) and ``dev/score``, their sum, which decides the best checkpoint.
    """

    def __init__(
        self,
        student: Student,
        vocabulary: Vocabulary,
        optimisation: Optimisation,
        regularisation: Regularisation,
        seed: int = 0,
        teachers: Sequence[Imitated] = (),
        imitation: Imitation | None = None,
        trigram: PhoneTrigram | None = None,
    ) -> None:
        super().__init__()
        if student.ctc_head is None:
            raise ConfigError("fine-tuning needs a student with a CTC head, this one has none")
        refuse_chunks_without_context(regularisation.chunk_frames, student.config)
        self.student = student
        self.vocabulary = vocabulary
        self.optimisation = optimisation
        self.regularisation = regularisation
        self.seed = seed
        self.trigram = trigram
        self._unregistered = tuple(teachers)
        self.imitation = imitation or Imitation()
        # A teacher's extractor makes the frames of both, where they are the same.
        self._heard_alike = [
            optimisation.freeze_extractor and hear_alike(teacher, student) for teacher in teachers
        ]
        decay = optimisation.average_decay
        self.average = (
            AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        )
        if self.average is not None:
            self.average.requires_grad_(False).eval()
        self.mel_head = (
            nn.Linear(student.config.width, MEL_BANDS) if regularisation.mel_start_steps else None
        )
        if optimisation.freeze_extractor:
            student.extractor.requires_grad_(False)
        if regularisation.channel_dropout:
            drop_channels(student, regularisation.channel_dropout)
        self._references: list[str] = []
        self._hypotheses: list[str] = []
        self._dev_loss: list[float] = []

    def configure_model(self) -> None:
        shard(self.student, self.device_mesh)
        shard_module(self.mel_head, self.device_mesh)
        if self.average is not None:
            # Parted again after each use, as the student's weights are when they are averaged.
            shard(self.kept, self.device_mesh, whole_after_forward=False)

    def on_fit_start(self) -> None:
        for teacher in self._unregistered:
            teacher.to(self.device)

    @property
    def kept(self) -> Student:
        """The student that is validated and saved."""
        if self.average is None:
            return self.student
        module = self.average.module
        assert isinstance(module, Student)
        return module

    def checkpoint(self, provenance: dict[str, object]) -> Checkpoint:
        """The kept student as a checkpoint."""
        return Checkpoint(whole(self.kept), self.vocabulary, provenance)

    def draw_context(self, step: int) -> Context | Literal["full", "configured"]:
        """The context of one batch: the same on every device and after a resume."""
        chosen = self.regularisation
        return draw_context(
            chosen.chunk_frames, chosen.left_frames, self.student.config.context, self.seed, step
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seed_step(self, self.seed, batch_index)
        counts = batch.frame_counts.cpu()
        chosen = self.regularisation
        mel_until = chosen.mel_start_steps
        aligned_until = mel_until + chosen.aligned_start_steps
        sequence_until = aligned_until + chosen.sequence_steps
        flat_until = sequence_until + chosen.flat_start_steps
        if self.mel_head is not None and self.global_step < mel_until:
            predicted = self.mel_head(self.student.embed(batch.waveforms))
            loss = mel_loss(predicted, batch.waveforms, counts)
        else:
            teachers = self._unregistered
            if True in self._heard_alike and batch.frames is None:
                alike = teachers[self._heard_alike.index(True)]
                assert isinstance(alike, Student)
                batch = heard_once(alike, batch)
            log_probs = self._log_probs(batch, counts, batch_index)
            if self.global_step < aligned_until:
                loss = self._aligned_loss(log_probs, batch)
            elif self.global_step < sequence_until:
                loss = self._sequence_loss(log_probs, counts, batch)
            elif self.global_step < flat_until:
                loss = self._flat_loss(log_probs, counts, batch)
            else:
                known = _labelled_counts(batch, counts).sum()
                loss = shared(self, self._loss(log_probs, counts, batch), known)
            loss = loss + imitating(
                self, log_probs, batch, teachers, self.imitation, self._heard_alike
            )
        refuse_non_finite(self, loss, batch.ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        self.log("train/learning_rate", self.optimizers().param_groups[-1]["lr"])  # type: ignore[union-attr]
        return loss

    def _log_probs(self, batch: Batch, counts: Tensor, batch_index: int) -> Tensor:
        """The student's output with this step's frame mask and context."""
        step = micro_step(self, batch_index)
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step * 31 + self.global_rank)
        mask = span_mask(
            len(counts),
            counts,
            self.regularisation.frame_mask_probability,
            self.regularisation.frame_mask_span,
            rng,
        ).to(batch.waveforms.device)
        return log_probs_of(self.student, batch, mask, self.draw_context(step))

    def _aligned_loss(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """Mean over the frames that have a target of -log P(target)."""
        return self._classification(log_probs, aligned(batch))

    def _sequence_loss(self, log_probs: Tensor, counts: Tensor, batch: Batch) -> Tensor:
        """What was said against all that could be, and some of the loss above; utterances without
        an alignment are left out."""
        assert self.trigram is not None
        targets = aligned(batch)
        sequence = lattice_free_mmi(log_probs, counts, targets, self.trigram)
        sequence = shared(self, sequence, known_frames(counts, targets))
        classification = self._classification(log_probs, targets)
        self.log("train/sequence", sequence.detach(), batch_size=len(batch.ids))
        return sequence + self.regularisation.classification_weight * classification

    def _flat_loss(self, log_probs: Tensor, counts: Tensor, batch: Batch) -> Tensor:
        """The same with a straight-line alignment; rows of several words are left out."""
        targets = straight_alignment(
            batch.waveforms, counts, batch.tokens, batch.token_counts, self.vocabulary.blank
        )
        several = torch.tensor([len(text.split()) > 1 for text in batch.texts])
        targets[several.to(targets.device)] = PADDING
        if batch.labelled is not None:
            targets[~batch.labelled] = PADDING
        return self._classification(log_probs, targets)

    def _classification(self, log_probs: Tensor, targets: Tensor) -> Tensor:
        return shared(self, classification_loss(log_probs, targets), target_count(targets))

    def _loss(self, log_probs: Tensor, counts: Tensor, batch: Batch) -> Tensor:
        """Sum over the batch of -log P(text), over the number of frames: even across lengths.
        Utterances without a text are left out."""
        losses = F.ctc_loss(
            log_probs.transpose(0, 1),
            batch.tokens,
            counts.to(log_probs.device),
            batch.token_counts,
            blank=self.vocabulary.blank,
            reduction="none",
            zero_infinity=True,
        )
        if batch.labelled is not None:
            losses = losses.masked_fill(~batch.labelled, 0.0)
        return losses.sum() / _labelled_counts(batch, counts).sum().clamp(min=1)

    def optimizer_step(self, *arguments: Any, **others: Any) -> None:
        super().optimizer_step(*arguments, **others)
        # Here and not at the batch's end, where callbacks that save come first.
        if self.average is not None:
            self.average.update_parameters(self.student)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        output, _ = self.kept(batch.waveforms, sample_counts=batch.sample_counts)
        counts = batch.frame_counts.cpu()
        self._dev_loss.append(float(self._loss(output.log_probs, counts, batch)))
        best = output.log_probs.argmax(dim=-1).cpu()
        for row, frames, text in zip(best, counts, batch.texts, strict=True):
            self._hypotheses.append(self.vocabulary.greedy(row[: int(frames)].tolist()))
            self._references.append(text)

    def on_validation_epoch_end(self) -> None:
        rates: ErrorRates = error_rates(self._references, self._hypotheses)
        figures = {
            "dev/wer": rates.wer,
            "dev/cer": rates.cer,
            "dev/false_words": rates.false_word_rate,
            "dev/loss": float(np.mean(self._dev_loss)) if self._dev_loss else 0.0,
        }
        figures["dev/score"] = figures["dev/wer"] + figures["dev/false_words"]
        self.log_dict(figures, prog_bar=True, sync_dist=True)
        self._references.clear()
        self._hypotheses.clear()
        self._dev_loss.clear()

    def configure_optimizers(self) -> Any:
        chosen = self.optimisation
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                kind = (name.startswith("student.extractor."), parameter.ndim > 1)
                groups.setdefault(kind, []).append(parameter)
        optimiser = torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "lr": chosen.learning_rate * (chosen.extractor_factor if extractor else 1.0),
                    "weight_decay": chosen.weight_decay if matrix else 0.0,
                }
                for (extractor, matrix), parameters in groups.items()
            ],
            lr=chosen.learning_rate,
            betas=(0.9, 0.98),
        )
        # The encoder's first step comes after the mel start, and needs a warm-up of its own.
        later = self.regularisation.mel_start_steps

        def encoder(step: int) -> float:
            past = max(0, step - later)
            return warmup_cosine(past, chosen.steps - later, chosen.warmup_steps, chosen.last_rate)

        def extractor(step: int) -> float:
            return warmup_cosine(step, chosen.steps, chosen.warmup_steps, chosen.last_rate)

        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, [extractor if is_extractor else encoder for is_extractor, _ in groups]
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _labelled_counts(batch: Batch, counts: Tensor) -> Tensor:
    """Frames of each utterance whose text is known (B,), 0 of the others."""
    if batch.labelled is None:
        return counts
    return counts * batch.labelled.to(counts.device)
