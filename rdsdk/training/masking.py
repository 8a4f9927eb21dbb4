"""Span masks over frames and channels: pure functions of counts and an explicit generator.

Spans as in wav2vec 2.0 (arXiv 2006.11477, section 3.1) and SpecAugment (arXiv 1904.08779): starts
are drawn at random and may overlap. Without overlap spans are placed one after the other into the
room that is left, as HuBERT-like recipes do; where no span fits any more, fewer are placed, so that
long spans at a high probability cover less than the probability says (about 0.7 at 0.8).
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rdsdk.errors import ConfigError

RatioSchedule = Literal["fixed", "linear", "cosine", "epochs"]


@dataclass(frozen=True)
class Masking:
    """How a teacher's input is masked, which its student sees masked alike.

    The defaults are how HuBERT was pre-trained by fairseq, at the ratio of arXiv 2305.11685 for 960
    hours (0.4 for 100).

    Args:
        ratio: spans times their length over a recording's frames; two for ``linear`` and
            ``cosine`` (begin, end), any number for ``epochs``. 0 masks nothing.
        schedule: ``fixed``; ``linear`` or ``cosine`` over the whole run; or ``epochs``: one ratio
            for each epoch, the last for all later ones.
        span_frames, overlap, minimum_space, minimum_spans: as ``span_mask`` takes them.
    """

    ratio: tuple[float, ...] = (0.8,)
    schedule: RatioSchedule = "fixed"
    span_frames: int = 10
    overlap: bool = False
    minimum_space: int = 1
    minimum_spans: int = 2

    def __post_init__(self) -> None:
        wanted = {"fixed": 1, "linear": 2, "cosine": 2}.get(self.schedule, len(self.ratio) or 1)
        if len(self.ratio) != wanted or not all(0 <= ratio <= 1 for ratio in self.ratio):
            raise ConfigError(
                f"a {self.schedule} mask ratio needs {wanted} number(s) in [0, 1], got "
                f"{list(self.ratio)}"
            )

    def masks(
        self, ids: Sequence[str], frame_counts: Tensor, length: int, ratio: float, draw: int
    ) -> Tensor:
        """A mask (B, T) bool on the device of ``frame_counts`` (B,), T = ``length``.

        Each row's is a function of its utterance's id and of ``draw`` (say, the step) alone: which
        batch or process an utterance is in changes nothing.
        """
        counts = frame_counts.cpu()
        mask = torch.zeros(len(ids), length, dtype=torch.bool)
        for row, (name, count) in enumerate(zip(ids, counts, strict=True)):
            rng = torch.Generator().manual_seed(zlib.crc32(f"{draw} {name}".encode()))
            mask[row, : int(count)] = span_mask(
                1,
                count[None],
                ratio,
                self.span_frames,
                rng,
                overlap=self.overlap,
                minimum_space=self.minimum_space,
                minimum_spans=self.minimum_spans,
            )
        return mask.to(frame_counts.device)


def mask_ratio(
    ratios: Sequence[float], schedule: RatioSchedule, progress: float, epoch: int
) -> float:
    """The ratio at ``progress`` (0 to 1) through a run, in ``epoch`` (from 0); see ``Masking``."""
    begin, end = ratios[0], ratios[-1]
    if schedule == "epochs":
        return ratios[min(epoch, len(ratios) - 1)]
    progress = min(1.0, max(0.0, progress))
    if schedule == "cosine":
        progress = 0.5 * (1 - math.cos(math.pi * progress))
    return begin + (end - begin) * progress


def span_mask(
    batch: int,
    frame_counts: Tensor,
    probability: float,
    span_frames: int,
    generator: torch.Generator,
    *,
    overlap: bool = True,
    minimum_space: int = 1,
    minimum_spans: int = 0,
) -> Tensor:
    """A mask (B, T) bool, T = the longest count, True where a frame is masked.

    A row of n frames gets ``probability * n / span_frames`` spans, rounded up or down at random so
    that the mean is right, at least ``minimum_spans``. A row shorter than a span gets none. With
    ``overlap=False`` at least ``minimum_space`` frames lie between two spans. Padding, from
    ``frame_counts`` (B,) on, is never masked. The same generator state gives the same mask, on any
    device; the mask is on the device of ``frame_counts``.

    Raises:
        ConfigError: a setting is out of range, or ``frame_counts`` has not ``batch`` entries.
    """
    if frame_counts.shape != (batch,):
        raise ConfigError(f"frame_counts must be ({batch},), got {tuple(frame_counts.shape)}")
    if not 0 <= probability <= 1 or span_frames < 1 or minimum_space < 0 or minimum_spans < 0:
        raise ConfigError(
            "a span mask needs a probability in [0, 1], spans of at least 1 frame, and no negative "
            f"minimum; got probability {probability}, span_frames {span_frames}, minimum_space "
            f"{minimum_space}, minimum_spans {minimum_spans}"
        )
    counts = [int(count) for count in frame_counts.tolist()]
    mask = torch.zeros(batch, max(counts, default=0), dtype=torch.bool)
    span = torch.arange(span_frames)
    for row, count in enumerate(counts):
        wanted = int(probability * count / span_frames + _draw(generator))
        spans = max(minimum_spans, wanted) if probability else 0
        if count < span_frames or not spans:
            continue
        if overlap:
            places = count - span_frames + 1
            starts = torch.randperm(places, generator=generator)[: min(spans, places)]
        else:
            starts = _apart(count, spans, span_frames, minimum_space, generator)
        mask[row, (starts[:, None] + span).flatten()] = True
    return mask.to(frame_counts.device)


def channel_mask(
    batch: int, channels: int, probability: float, span_channels: int, generator: torch.Generator
) -> Tensor:
    """A mask (B, C) bool over feature channels, in spans that may overlap; same for all frames.

    Raises:
        ConfigError: a setting is out of range.
    """
    counts = torch.full((batch,), channels, dtype=torch.int64)
    return span_mask(batch, counts, probability, span_channels, generator)


def _apart(count: int, spans: int, length: int, space: int, generator: torch.Generator) -> Tensor:
    """Starts of up to ``spans`` spans, at least ``space`` apart, each placed at random."""
    # Python's own numbers: there are many single ones, while a GPU waits.
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    rooms = [(0, count)]
    starts: list[int] = []
    while rooms and len(starts) < spans:
        (room,) = rng.choices(range(len(rooms)), [end - begin for begin, end in rooms])
        begin, end = rooms.pop(room)
        start = begin + rng.randrange(end - begin - length + 1)
        starts.append(start)
        sides = ((begin, start - space), (start + length + space, end))
        rooms += [side for side in sides if side[1] - side[0] >= length]
    return torch.tensor(starts, dtype=torch.int64)


def _draw(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))
