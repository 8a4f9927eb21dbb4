"""Teacher -> student: the LightningModule of masking distillation (arXiv 2305.11685, section 3.3).

Shapes: B batch, S samples, T frames, P teacher width, L student layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from rdsdk.data.batches import Batch
from rdsdk.errors import ConfigError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context
from rdsdk.models.extractor import frame_count
from rdsdk.models.student import Student
from rdsdk.training.context import draw_context, refuse_chunks_without_context
from rdsdk.training.distillation_settings import Chunks, Descent, Objective
from rdsdk.training.gradient_scale import LayerGradientScale
from rdsdk.training.losses import (
    frame_losses,
    layer_weights,
    matched_layers,
    real_frames,
    relation_losses,
)
from rdsdk.training.masking import Masking, mask_ratio
from rdsdk.training.schedule import warmup_cosine, warmup_linear
from rdsdk.training.sharding import shard, whole
from rdsdk.training.similarity import frame_similarity, similarity_image
from rdsdk.training.steps import refuse_non_finite, seed_step
from rdsdk.training.teachers import Teacher, TeacherOutput
from rdsdk.training.throughput import Stopwatch


class Distillation(L.LightningModule):
    """A student learns its teacher's hidden states, layer by layer.

    One pass of the student sees the masked input; the teacher gives its hidden states of the
    masked and the unmasked one. Validation, without masks, logs ``dev/loss``, which decides the
    best checkpoint, and ``dev/similarity_layerN``, the mean cosine through each layer's head.

    The teacher is no submodule: no optimiser, wrapper or checkpoint has to know its weights.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        objective: Objective,
        masking: Masking,
        optimisation: Descent,
        chunks: Chunks | None = None,
        seed: int = 0,
        figure_every_steps: int = 1000,
    ) -> None:
        super().__init__()
        chunks = chunks or Chunks()
        refuse_chunks_without_context(chunks.chunk_frames, student.config)
        if objective.heads and student.projection_width != teacher.width:
            raise ConfigError(
                f"the student's projection heads must have the teacher's width {teacher.width}, "
                f"got {student.projection_width}; make it Student(projection_width={teacher.width})"
            )
        self._unregistered = (teacher.requires_grad_(False).eval(),)
        self.student = student
        self.objective, self.masking, self.optimisation = objective, masking, optimisation
        self.chunks, self.seed = chunks, seed
        self.figure_every_steps = figure_every_steps
        depth = student.config.layers
        self.teacher_layers = matched_layers(depth, teacher.layers, objective.teacher_layers)
        self.layer_weights = objective.layer_weights or layer_weights(depth)
        if len(self.layer_weights) != depth:
            raise ConfigError(f"layer_weights needs {depth} numbers, got {self.layer_weights}")
        self.gradient_scale = LayerGradientScale(student.encoder, objective.layer_grad_scale)
        self.stopwatch = Stopwatch()
        self._dev: dict[str, float] = {}
        self._next_figure = 0
        self._steps: int | None = None

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        return self._unregistered[0]

    def configure_model(self) -> None:
        shard(self.student, self.device_mesh)

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def checkpoint(self, provenance: dict[str, object]) -> Checkpoint:
        """The student, heads included, as a checkpoint."""
        return Checkpoint(whole(self.student), None, provenance)

    def draw_context(self, step: int) -> Context | Literal["full", "configured"]:
        """The context of one batch: the same on every device and after a resume."""
        chosen, configured = self.chunks, self.student.config.context
        return draw_context(chosen.chunk_frames, chosen.left_frames, configured, self.seed, step)

    def draw_layers(self, step: int) -> list[int]:
        """The student layers, from 0, that have a frame loss in this step; the last always."""
        below, count = self.student.config.layers - 1, self.objective.random_layers
        if count is None or count >= below:
            return list(range(below + 1))
        rng = np.random.default_rng((self.seed, step, 1))
        return [*sorted(int(layer) for layer in rng.permutation(below)[:count]), below]

    def draw_mask(self, batch: Batch, step: int) -> Tensor:
        """(B, T) bool: this step's mask of each utterance, the same in whatever batch it is."""
        progress = self.global_step / self._total_steps()
        epoch = self.current_epoch
        ratio = mask_ratio(self.masking.ratio, self.masking.schedule, progress, epoch)
        self.log("train/mask_ratio", ratio, batch_size=len(batch))
        length = frame_count(batch.waveforms.shape[1])
        draw = self.seed * 1_000_003 + step
        return self.masking.masks(batch.ids, batch.frame_counts, length, ratio, draw)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        step = seed_step(self, self.seed, batch_index)
        mask = self.draw_mask(batch, step)
        with self.stopwatch.span("teacher", batch.waveforms.device):
            targets = self._ask(batch, mask)
        with self.stopwatch.span("student", batch.waveforms.device):
            terms = self._losses(batch, mask, targets, step)
            loss = torch.stack(list(terms.values())).sum()
        refuse_non_finite(self, loss, batch.ids)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach(), batch_size=len(batch))
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def _ask(self, batch: Batch, mask: Tensor | None) -> TeacherOutput:
        """The teacher's hidden states, in the order of the student's layers."""
        if self.objective.frames in ("masked", "none") or mask is None or not bool(mask.any()):
            # Nobody asks for the masked pass, or it would be the unmasked one again.
            mask = None
        with torch.no_grad():
            said = self.teacher(batch.waveforms, batch.sample_counts, mask)
        unmasked = [said.unmasked[layer] for layer in self.teacher_layers]
        if said.masked is None:
            return TeacherOutput(unmasked, None)
        return TeacherOutput(unmasked, [said.masked[layer] for layer in self.teacher_layers])

    def _losses(
        self, batch: Batch, mask: Tensor, targets: TeacherOutput, step: int
    ) -> dict[str, Tensor]:
        """The weighted terms of the loss by name."""
        counts = batch.frame_counts
        relation_alone = self.objective.frames == "none"
        output, _ = self.student(
            batch.waveforms,
            sample_counts=batch.sample_counts,
            # Given even if nothing is masked, so that the mask embedding always has a gradient.
            frame_mask=torch.zeros_like(mask) if relation_alone else mask,
            context=self.draw_context(step),
        )
        hidden = self.gradient_scale.own(output.hidden)
        terms: dict[str, Tensor] = {}
        if not relation_alone:
            layers = self.draw_layers(step)
            predictions = self._project(hidden, layers)
            losses = frame_losses(
                predictions,
                _picked(targets.unmasked, layers),
                None if targets.masked is None else _picked(targets.masked, layers),
                mask,
                counts,
                self._mean_over_processes(counts.sum()),
            )
            weights = losses.masked.new_tensor([self.layer_weights[layer] for layer in layers])
            for name, each in losses._asdict().items():
                if self.objective.frames in ("both", name):
                    terms[name] = (weights * each).sum()
            terms["masked" if "masked" in terms else "unmasked"] += 0.0 * self._unused(layers)
        if self.objective.temporal_relation:
            pairs = self._mean_over_processes(counts.square().sum())
            relation = relation_losses(hidden, targets.unmasked, counts, pairs)
            weight = self.objective.temporal_relation
            terms["relation"] = weight * relation.layer
            terms["intra_relation"] = weight * relation.intra_layer
        return terms

    def _project(self, hidden: Sequence[Tensor], layers: Sequence[int]) -> list[Tensor]:
        assert self.student.projections is not None
        return [self.student.projections[layer](hidden[layer]) for layer in layers]

    def _unused(self, layers: Sequence[int]) -> Tensor:
        """The sum of the heads without a loss: multiplied by 0 it gives them a gradient of 0."""
        assert self.student.projections is not None
        idle = [head for n, head in enumerate(self.student.projections) if n not in layers]
        total = torch.zeros((), device=self.device)
        for head in idle:
            for parameter in head.parameters():
                total = total + parameter.sum()
        return total

    def _mean_over_processes(self, count: Tensor) -> Tensor:
        reduced = self.trainer.strategy.reduce(count.float(), reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        targets = self._ask(batch, None)
        counts = batch.frame_counts
        output, _ = self.student(batch.waveforms, sample_counts=batch.sample_counts)
        predictions = output.hidden
        real = real_frames(counts, predictions[0].shape[1])
        summed: dict[str, float] = {"frames": float(counts.sum())}
        loss = output.hidden[0].new_zeros((), dtype=torch.float32)
        if self.objective.heads:
            predictions = self.student.project(output.hidden)
            losses = frame_losses(
                predictions, targets.unmasked, None, torch.zeros_like(real), counts
            )
            loss = (losses.unmasked * losses.unmasked.new_tensor(self.layer_weights)).sum()
        if self.objective.temporal_relation:
            relation = relation_losses(output.hidden, targets.unmasked, counts)
            loss = loss + self.objective.temporal_relation * sum(relation)
        summed["loss"] = float(loss) * summed["frames"]
        alike = frame_similarity(predictions, targets.unmasked)
        kept = alike.masked_fill(~real[:, None], 0.0).sum(dim=(0, 2))
        for number, total in enumerate(kept.tolist(), start=1):
            summed[f"similarity_layer{number:02d}"] = total
        for name, value in summed.items():
            self._dev[name] = self._dev.get(name, 0.0) + value
        if batch_index == 0 and self.global_step >= self._next_figure:
            self._next_figure = self.global_step + self.figure_every_steps
            self._draw(alike[0, :, : int(counts[0])])

    def on_validation_epoch_end(self) -> None:
        frames = self._dev.pop("frames", 0.0)
        figures = {f"dev/{name}": total / max(1.0, frames) for name, total in self._dev.items()}
        self._dev.clear()
        self.log_dict(figures, sync_dist=True)

    def _draw(self, similarity: Tensor) -> None:
        """Each frame's similarity in each layer, of the first dev utterance."""
        picture = similarity_image(similarity)
        for logger in self.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_image"):
                experiment.add_image("dev/similarity", picture, self.global_step, dataformats="HWC")
            elif hasattr(logger, "log_image"):
                logger.log_image("dev/similarity", [picture], step=self.global_step)

    def _total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        if self._steps is None:
            steps = self.trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise ConfigError(
                    "the length of an epoch of a lazy source is not known; give "
                    "optimisation.steps instead of epochs"
                )
            self._steps = int(steps)
        return self._steps

    def configure_optimizers(self) -> Any:
        chosen = self.optimisation
        optimiser = torch.optim.AdamW(
            self.student.parameters(),
            lr=chosen.learning_rate,
            betas=chosen.betas,
            eps=chosen.epsilon,
            weight_decay=chosen.weight_decay,
        )
        steps = self._total_steps()
        warmup = int(steps * chosen.warmup_share)
        factor = warmup_linear if chosen.schedule == "linear" else warmup_cosine
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: factor(step, steps, warmup)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _picked(states: Sequence[Tensor], layers: Sequence[int]) -> list[Tensor]:
    return [states[layer] for layer in layers]
