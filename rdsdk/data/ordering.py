"""Which utterances go into which batch, in which order: decided on durations alone."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.dynamic_bucketing import (
    FixedBucketBatchSizeConstraint,
    estimate_duration_buckets,
)

from rdsdk.data.usable import Usable

BUCKETS = 16
BUFFER_CUTS = 20_000

Planned = tuple[int, list[Cut]]


class Bucketed:
    """Shuffled batches of similar lengths; iterating gives (epoch, cuts) from ``place`` on.

    ``place`` is (epoch, batches of it already seen). What an epoch holds is a function of the cuts,
    the settings, the seed and the epoch. Nothing is decoded here.
    """

    def __init__(
        self,
        cuts: Usable,
        lazy: bool,
        batch_seconds: float,
        quadratic_seconds: float | None,
        seed: int,
        world_size: int,
        rank: int,
    ) -> None:
        self._lazy = lazy
        self._cuts: Usable | list[Cut] = cuts if lazy else list(cuts)
        self._seed, self._world_size, self._rank = seed, world_size, rank
        known = list(itertools.islice(self._cuts, BUFFER_CUTS if lazy else None))
        self._bounds, self._sizes = _buckets(known, batch_seconds, quadratic_seconds)
        if lazy:
            self._bounds[-1] = math.inf  # an utterance not looked at yet may be longer
        self.place = (0, 0)

    @property
    def length(self) -> int | None:
        """Batches of a whole epoch on this rank, the same in every epoch; None if lazy."""
        if self._lazy:
            return None
        counts = [0] * len(self._sizes)
        for cut in self._cuts:
            counts[int(np.searchsorted(self._bounds[:-1], cut.duration))] += 1
        batches = sum(math.ceil(n / size) for n, size in zip(counts, self._sizes, strict=True))
        return math.ceil(batches / self._world_size)

    @property
    def fingerprint(self) -> str:
        """The same for the same utterances and settings; of a lazy source, for the settings."""
        digest = zlib.crc32(repr((self._bounds, self._sizes)).encode())
        if not self._lazy:
            for cut in self._cuts:
                digest = zlib.crc32(cut.id.encode(), digest)
        return f"{digest:08x} seed {self._seed} world {self._world_size}"

    def __iter__(self) -> Iterator[Planned]:
        epoch, seen = self.place
        cuts: Any = self._cuts
        if not self._lazy:
            # The sampler only shuffles within its buffer; a sorted corpus needs more.
            order = np.random.default_rng([self._seed, epoch]).permutation(len(cuts))
            cuts = [cuts[index] for index in order]
        # sync_buckets stays on, for one rank too: lhotse 1.33 loses the last batches without it.
        sampler = DynamicBucketingSampler(
            cuts,
            constraint=FixedBucketBatchSizeConstraint(self._bounds, self._sizes),
            duration_bins=self._bounds[:-1],
            shuffle=True,
            seed=self._seed,
            buffer_size=BUFFER_CUTS,
            world_size=self._world_size,
            rank=self._rank,
            sync_buckets=True,
        )
        sampler.set_epoch(epoch)
        for batch in itertools.islice(sampler, seen, None):
            yield epoch, list(batch)


class InOrder:
    """Batches in the order of the cuts, as large as ``batch_seconds`` with padding allows."""

    def __init__(self, cuts: CutSet, batch_seconds: float) -> None:
        self._cuts, self._batch_seconds = cuts, batch_seconds

    @property
    def length(self) -> int | None:
        """The number of batches; None if lazy."""
        return None if self._cuts.is_lazy else sum(1 for _ in self)

    def __iter__(self) -> Iterator[Planned]:
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


def _buckets(
    cuts: list[Cut], batch_seconds: float, quadratic_seconds: float | None
) -> tuple[list[float], list[int]]:
    """The longest utterance of each bucket, in seconds, and the utterances of its batches.

    Sizes fixed by bucket, rather than filled up to a sum, keep the padded size within bounds and
    make the number of batches the same in every epoch.
    """
    estimated = estimate_duration_buckets(cuts, BUCKETS) if len(cuts) > BUCKETS else []
    longest = max(cut.duration for cut in cuts)
    bounds = [*sorted({float(bound) for bound in estimated if bound < longest}), longest]
    weighed = [d + d * d / quadratic_seconds if quadratic_seconds else d for d in bounds]
    return bounds, [max(1, int(batch_seconds / d)) for d in weighed]
