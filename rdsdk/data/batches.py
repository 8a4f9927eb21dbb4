"""Utterances -> batches: dynamic length bucketing, the same on every run, resumable mid-epoch.

What a run sees is a function of (cuts, settings, seed, epoch): the order of the batches, and each
utterance's augmentation, whose generator is seeded by (seed, epoch, id). The number of loader
processes changes nothing. So a run resumes by its place alone: the batches already seen are skipped
without decoding them, and the next ones are bit for bit those the uninterrupted run would have had.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lhotse import CutSet
from torch.utils.data import DataLoader

from rdsdk.data.augment import Augmentation
from rdsdk.data.batch import Assemble, Batch
from rdsdk.data.kept_frames import AssembleKept, KeptFrames
from rdsdk.data.noise import load_noises
from rdsdk.data.ordering import Bucketed, InOrder
from rdsdk.data.usable import Unencodable, Usable
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

__all__ = [
    "Batch",
    "EvaluationBatches",
    "TrainingBatches",
    "evaluation_batches",
    "training_batches",
]


class TrainingBatches:
    """Shuffled batches, one pass over the data per iteration; see :func:`training_batches`.

    Iterating goes on from the current place (epoch, batch), to the end of the epoch. ``len`` is the
    number of batches of a whole epoch, the same for every epoch; a lazy source has none.

    ``state_dict`` holds the place after the last batch handed out. After ``load_state_dict`` the
    following batches are exactly those that were still to come, provided that the utterances and
    the settings are the same; if they are not, a warning says so and the epoch starts over.
    Lightning saves and restores it by itself; with a lazy source it asks for one batch in advance,
    so that on resuming mid-epoch this one batch is left out.
    """

    def __init__(
        self,
        cuts: CutSet,
        vocabulary: Vocabulary | None,
        batch_seconds: float,
        workers: int,
        seed: int,
        augmentation: Augmentation | None,
        world_size: int,
        rank: int,
        quadratic_seconds: float | None,
        unencodable: Unencodable,
        longest_seconds: float,
        kept: KeptFrames | None,
        unlabelled: bool,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be in [0, world_size), got {rank} of {world_size}")
        if not batch_seconds > 0 or (quadratic_seconds is not None and not quadratic_seconds > 0):
            raise ConfigError(
                f"batch_seconds and quadratic_seconds must be positive, got {batch_seconds} and "
                f"{quadratic_seconds}"
            )
        if augmentation is not None and augmentation.noise_probability:
            # Here, so that a bad folder fails at once and forked loader processes share the noise.
            load_noises(str(augmentation.noise), augmentation.noise_pattern)
        usable = Usable(cuts, vocabulary, unencodable, longest_seconds, unlabelled)
        # The loader refers to the plan and not to this object: with a cycle, the loader processes
        # would be stopped by the garbage collector, which takes seconds for each.
        self._plan = Bucketed(
            usable, cuts.is_lazy, batch_seconds, quadratic_seconds, seed, world_size, rank
        )
        self._length = self._plan.length
        assemble = (
            Assemble(vocabulary, augmentation, seed, unlabelled)
            if kept is None
            else AssembleKept(vocabulary, kept, unlabelled)
        )
        self._loader = _loader(self._plan, assemble, workers)

    @property
    def sampler(self) -> TrainingBatches:
        """Itself: Lightning calls ``sampler.set_epoch`` when an epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; nothing happens in the middle of that very epoch."""
        if epoch != self._plan.place[0]:
            self._plan.place = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The place (epoch, batches already handed out) and a fingerprint of what is iterated."""
        epoch, batches = self._plan.place
        return {"epoch": epoch, "batches": batches, "plan": self._plan.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place saved by ``state_dict``.

        Raises:
            DataError: this is not such a state.
        """
        if not {"epoch", "batches", "plan"} <= state.keys():
            raise DataError(f"a loader state has epoch, batches and plan, got {sorted(state)}")
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if batches and state["plan"] != self._plan.fingerprint:
            warnings.warn(
                f"the utterances or the batch settings are not those of the interrupted run; epoch "
                f"{epoch} starts over instead of going on at batch {batches}",
                stacklevel=2,
            )
            batches = 0
        self._plan.place = (epoch, batches)

    def __len__(self) -> int:
        return _sized(self._length)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._plan.place
        for batch in self._loader:
            done += 1
            # Moved on before the last batch is handed out: who counts never asks for one more.
            self._plan.place = (epoch + 1, 0) if done == self._length else (epoch, done)
            yield batch
        self._plan.place = (epoch + 1, 0)


def training_batches(
    cuts: CutSet,
    vocabulary: Vocabulary | None,
    batch_seconds: float,
    workers: int = 0,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    world_size: int = 1,
    rank: int = 0,
    quadratic_seconds: float | None = None,
    unencodable: Unencodable = "error",
    longest_seconds: float = math.inf,
    kept: KeptFrames | None = None,
    unlabelled: bool = False,
) -> TrainingBatches:
    """Shuffled batches of utterances of similar length, of at most ``batch_seconds`` with padding.

    Lengths are those before augmentation. An utterance longer than ``batch_seconds`` is a batch of
    its own. With ``quadratic_seconds`` q an utterance of d seconds counts as d + d*d/q, for models
    whose cost grows with the square of the length. With several ranks each gets its share, all the
    same number of batches, of similar lengths at each step. ``vocabulary=None`` takes recordings
    without transcripts and gives no tokens.

    With ``unlabelled``, utterances without a transcript are taken along, told by ``labelled``.

    With ``kept`` frames nothing is decoded or augmented: epoch e takes them from a pass.

    Utterances longer than ``longest_seconds``, and those whose tokens cannot fit their frames under
    CTC, are left out, with one warning that counts them; those handed out fit after augmentation
    too.

    Raises:
        DataError: a text holds characters the vocabulary lacks (unless ``unencodable="drop"``), a
            transcript is absent (without ``unlabelled``), a recording cannot be decoded, or
            nothing usable is left.
        ConfigError: a setting is out of range.
    """
    return TrainingBatches(
        cuts,
        vocabulary,
        batch_seconds,
        workers,
        seed,
        augmentation,
        world_size,
        rank,
        quadratic_seconds,
        unencodable,
        longest_seconds,
        kept,
        unlabelled,
    )


class EvaluationBatches:
    """Batches in the order of the cuts, nothing dropped or changed; see evaluation_batches."""

    def __init__(
        self, cuts: CutSet, vocabulary: Vocabulary | None, batch_seconds: float, workers: int
    ) -> None:
        if not batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be positive, got {batch_seconds}")
        plan = InOrder(cuts, batch_seconds)
        self._length = plan.length
        self._loader = _loader(plan, Assemble(vocabulary, None, 0), workers)

    def __len__(self) -> int:
        return _sized(self._length)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)


def evaluation_batches(
    cuts: CutSet,
    vocabulary: Vocabulary | None = None,
    batch_seconds: float = 60.0,
    workers: int = 0,
) -> EvaluationBatches:
    """Every utterance once, in order, unaugmented, at most ``batch_seconds`` a batch with padding.

    Nothing is left out, so a CTC loss over it needs ``zero_infinity=True``.

    Raises:
        DataError: a recording cannot be decoded, or a text has no tokens in ``vocabulary``.
        ConfigError: a setting is out of range.
    """
    return EvaluationBatches(cuts, vocabulary, batch_seconds, workers)


def _loader(plan: Bucketed | InOrder, assemble: Assemble, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        assemble,
        sampler=plan,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own, so that loading draws nothing from the global one
    )


def _sized(length: int | None) -> int:
    if length is None:
        raise TypeError("a lazy source has no known number of batches")
    return length
