"""Utterances -> batches: dynamic length bucketing, the same on every run, resumable mid-epoch.

What a run sees is a function of (cuts, settings, seed, epoch): the order of the batches, and each
utterance's augmentation, whose generator is seeded by (seed, epoch, id). The number of loader
processes changes nothing. So a run resumes by its place alone: the batches already seen are skipped
without decoding them, and the next ones are bit for bit those the uninterrupted run would have had.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.dynamic_bucketing import (
    FixedBucketBatchSizeConstraint,
    estimate_duration_buckets,
)
from torch.utils.data import DataLoader

from rdsdk.data.augment import Augmentation, load_noises
from rdsdk.data.batch import Assemble, Batch
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

BUCKETS = 16
BUFFER_CUTS = 20_000


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
        usable = Usable(cuts, vocabulary, unencodable, longest_seconds)
        self._lazy = cuts.is_lazy
        self._cuts: Usable | list[Cut] = usable if self._lazy else list(usable)
        self._seed, self._world_size, self._rank = seed, world_size, rank
        self._bounds, self._sizes = _buckets(self._cuts, batch_seconds, quadratic_seconds)
        self._place = (0, 0)
        self._loader = _loader(self, Assemble(vocabulary, augmentation, seed), workers)

    @property
    def sampler(self) -> TrainingBatches:
        """Itself: Lightning calls ``sampler.set_epoch`` when an epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; nothing happens in the middle of that very epoch."""
        if epoch != self._place[0]:
            self._place = (epoch, 0)

    def state_dict(self) -> dict[str, Any]:
        """The place (epoch, batches already handed out) and a fingerprint of what is iterated."""
        epoch, batches = self._place
        return {"epoch": epoch, "batches": batches, "plan": self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place saved by ``state_dict``.

        Raises:
            DataError: this is not such a state.
        """
        if not {"epoch", "batches", "plan"} <= state.keys():
            raise DataError(f"a loader state has epoch, batches and plan, got {sorted(state)}")
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if batches and state["plan"] != self._fingerprint():
            warnings.warn(
                f"the utterances or the batch settings are not those of the interrupted run; epoch "
                f"{epoch} starts over instead of going on at batch {batches}",
                stacklevel=2,
            )
            batches = 0
        self._place = (epoch, batches)

    def __len__(self) -> int:
        if self._lazy:
            raise TypeError("a lazy source has no known number of batches")
        counts = [0] * len(self._sizes)
        for cut in self._cuts:
            counts[int(np.searchsorted(self._bounds[:-1], cut.duration))] += 1
        batches = sum(math.ceil(n / size) for n, size in zip(counts, self._sizes, strict=True))
        return math.ceil(batches / self._world_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._place
        total = None if self._lazy else len(self)
        for batch in self._loader:
            done += 1
            # Moved on before the last batch is handed out: who counts never asks for one more.
            self._place = (epoch + 1, 0) if done == total else (epoch, done)
            yield batch
        self._place = (epoch + 1, 0)

    def remaining(self) -> Iterator[tuple[int, list[Cut]]]:
        """(epoch, cuts) of each batch still to come in this epoch, without decoding anything."""
        epoch, done = self._place
        cuts: Any = self._cuts
        if not self._lazy:
            # The sampler only shuffles within its buffer; a sorted corpus needs more.
            order = np.random.default_rng([self._seed, epoch]).permutation(len(cuts))
            cuts = [cuts[index] for index in order]
        sampler = DynamicBucketingSampler(
            cuts,
            constraint=FixedBucketBatchSizeConstraint(self._bounds, self._sizes),
            duration_bins=self._bounds[:-1],
            shuffle=True,
            seed=self._seed,
            buffer_size=BUFFER_CUTS,
            world_size=self._world_size,
            rank=self._rank,
        )
        sampler.set_epoch(epoch)
        for index, batch in enumerate(sampler):
            if index >= done:
                yield epoch, list(batch)

    def _fingerprint(self) -> str:
        digest = zlib.crc32(repr((self._bounds, self._sizes)).encode())
        if not self._lazy:
            for cut in self._cuts:
                digest = zlib.crc32(cut.id.encode(), digest)
        return f"{digest:08x} seed {self._seed} world {self._world_size}"


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
) -> TrainingBatches:
    """Shuffled batches of utterances of similar length, of at most ``batch_seconds`` with padding.

    Lengths are those before augmentation. An utterance longer than ``batch_seconds`` is a batch of
    its own. With ``quadratic_seconds`` q an utterance of d seconds counts as d + d*d/q, for models
    whose cost grows with the square of the length. With several ranks each gets its share, all the
    same number of batches, of similar lengths at each step. ``vocabulary=None`` takes recordings
    without transcripts and gives no tokens.

    Utterances longer than ``longest_seconds``, and those whose tokens cannot fit their frames under
    CTC, are left out, with one warning that counts them; those handed out fit after augmentation
    too.

    Raises:
        DataError: a text holds characters the vocabulary lacks (unless ``unencodable="drop"``), a
            transcript is absent, a recording cannot be decoded, or nothing usable is left.
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
    )


class EvaluationBatches:
    """Batches in the order of the cuts, nothing dropped or changed; see evaluation_batches."""

    def __init__(
        self, cuts: CutSet, vocabulary: Vocabulary | None, batch_seconds: float, workers: int
    ) -> None:
        if not batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be positive, got {batch_seconds}")
        self._cuts, self._batch_seconds = cuts, batch_seconds
        self._loader = _loader(self, Assemble(vocabulary, None, 0), workers)
        self._count = None if cuts.is_lazy else sum(1 for _ in self.remaining())

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("a lazy source has no known number of batches")
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def remaining(self) -> Iterator[tuple[int, list[Cut]]]:
        """(0, cuts) of each batch, without decoding anything."""
        held: list[Cut] = []
        longest = 0.0
        for cut in self._cuts:
            longest = max(longest, cut.duration)
            if held and (len(held) + 1) * longest > self._batch_seconds:
                yield 0, held
                held, longest = [], cut.duration
            held.append(cut)
        if held:
            yield 0, held


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


def _buckets(
    cuts: Usable | list[Cut], batch_seconds: float, quadratic_seconds: float | None
) -> tuple[list[float], list[int]]:
    """The longest utterance of each bucket, in seconds, and the utterances of its batches.

    Sizes fixed by bucket, rather than filled up to a sum, keep the padded size within bounds and
    make the number of batches the same in every epoch.
    """
    lazy = isinstance(cuts, Usable)
    known = [cut for _, cut in zip(range(BUFFER_CUTS), cuts, strict=False)] if lazy else list(cuts)
    estimated = estimate_duration_buckets(known, BUCKETS) if len(known) > BUCKETS else []
    inner = sorted({float(bound) for bound in estimated})
    longest = max(cut.duration for cut in known)
    bounds = [bound for bound in inner if bound < longest] + [longest]
    weighed = [d + d * d / quadratic_seconds if quadratic_seconds else d for d in bounds]
    sizes = [max(1, int(batch_seconds / d)) for d in weighed]
    if lazy:
        bounds[-1] = math.inf  # an utterance not looked at yet may be longer
    return bounds, sizes


def _loader(
    source: TrainingBatches | EvaluationBatches, assemble: Assemble, workers: int
) -> DataLoader[Batch]:
    return DataLoader(
        assemble,
        sampler=_Remaining(source),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


class _Remaining:
    """What a loader draws from: the batches its source still has to give."""

    def __init__(self, source: TrainingBatches | EvaluationBatches) -> None:
        self._source = source

    def __iter__(self) -> Iterator[tuple[int, list[Cut]]]:
        return self._source.remaining()
