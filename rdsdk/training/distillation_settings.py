"""The settings of a distillation: what is matched, how weights move, in which contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rdsdk.errors import ConfigError
from rdsdk.training.gradient_scale import GradientScale


@dataclass(frozen=True)
class Descent:
    """How weights move. The defaults are those of ARMHuBERT.

    Args:
        epochs: how often the data is seen.
        steps: optimiser steps; if given, the run is that long, whatever ``epochs`` says.
        learning_rate: AdamW's, at its peak.
        warmup_share: share of the run in which it rises to that.
        schedule: how it falls afterwards.
        weight_decay, betas, epsilon: AdamW's, on all weights.
        clip_norm: gradients are scaled down to this norm; None leaves them, as published.
    """

    epochs: int = 200
    steps: int | None = None
    learning_rate: float = 5e-3
    warmup_share: float = 0.05
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError(
                f"optimisation needs epochs and steps of at least 1, got {self.epochs} and "
                f"{self.steps}"
            )
        if self.learning_rate <= 0 or not 0 <= self.warmup_share < 1:
            raise ConfigError(
                "optimisation needs learning_rate > 0 and warmup_share in [0, 1), got "
                f"{self.learning_rate} and {self.warmup_share}"
            )


@dataclass(frozen=True)
class Objective:
    """What the student is asked to match.

    Args:
        frames: which frames have a loss: ``both`` masked and unmasked ones, as published, one of
            them, or ``none`` (then ``temporal_relation`` alone teaches). A mask ratio of 0 with
            ``both`` or ``unmasked`` is plain layer-to-layer distillation.
        layer_weights: of each layer's frame loss; None is 0.1 and 1.0 for the last, as published.
        teacher_layers: the teacher layer, from 0, that each student layer learns from; None is one
            to one, or evenly spread if the depths differ.
        random_layers: how many layers below the last have a loss in a step, drawn anew in each;
            None is all.
        temporal_relation: weight of STaR's loss; see ``losses.relation_losses``.
        layer_grad_scale: ``shares``, ``released`` or ``off``; see ``gradient_scale.shares``.
    """

    frames: Literal["both", "masked", "unmasked", "none"] = "both"
    layer_weights: tuple[float, ...] | None = None
    teacher_layers: tuple[int, ...] | None = None
    random_layers: int | None = None
    temporal_relation: float = 0.0
    layer_grad_scale: GradientScale = "off"

    def __post_init__(self) -> None:
        if self.frames == "none" and self.temporal_relation <= 0:
            raise ConfigError(
                "objective.frames is none and temporal_relation 0: there is nothing to learn"
            )

    @property
    def heads(self) -> bool:
        """Whether the student needs projection heads: temporal relations do without."""
        return self.frames != "none"


@dataclass(frozen=True)
class Chunks:
    """Contexts that a streaming student is taught with.

    Args:
        chunk_frames: one is drawn for each batch; None is full context. Empty: the architecture's
            own context, always.
        left_frames: left context that goes with a drawn chunk; the architecture's if None.
    """

    chunk_frames: tuple[int | None, ...] = ()
    left_frames: int | None = None
