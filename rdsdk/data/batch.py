"""A few cuts -> one Batch: decoded, augmented, encoded, padded."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from rdsdk.data.alignment import PADDING, frame_targets, is_aligned
from rdsdk.data.augment import Augmentation, Timing, augment
from rdsdk.data.manifest import transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

HOP_SAMPLES = 320
OVERHANG_SAMPLES = 80


@dataclass
class Batch:
    """Utterances padded to a common length.

    waveforms (B, S) float32, zero beyond sample_counts (B,) int64; tokens (B, U) int64, zero beyond
    token_counts (B,) int64, with U = 0 if no vocabulary was given; ids and texts have B entries,
    the text of an unlabelled utterance is "". frame_targets (B, T) int64 are the symbols of the
    frames where an utterance has an alignment, ``alignment.PADDING`` elsewhere; None if none has.
    frames (B, T, C), zero in padding, are what the extractor made of the waveforms, where it was
    kept instead of them; then S is 0, and energies (B, T, 3 M) are there for a student that hears
    them, and teacher_log_probs (B, T, V) if teachers were asked. labelled (B,) bool tells which
    texts are known, where a vocabulary was given and not all are.
    """

    waveforms: Tensor
    sample_counts: Tensor
    tokens: Tensor
    token_counts: Tensor
    ids: list[str]
    texts: list[str]
    frame_targets: Tensor | None = None
    frames: Tensor | None = None
    energies: Tensor | None = None
    teacher_log_probs: Tensor | None = None
    labelled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def frame_counts(self) -> Tensor:
        """Frames of each utterance (B,) int64: (S - 80) // 320, at least 0."""
        return frame_count(self.sample_counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU overlap with work."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = {name: change(it) for name, it in values.items() if isinstance(it, Tensor)}
        return Batch(**(values | changed))


def frame_count(samples: Any) -> Any:
    """Frames that the extractor makes of ``samples`` (int or integer tensor): (S - 80) // 320."""
    frames = (samples - OVERHANG_SAMPLES) // HOP_SAMPLES
    return frames.clamp(min=0) if isinstance(frames, Tensor) else max(0, frames)


def frames_needed(tokens: Sequence[int]) -> int:
    """The fewest frames a CTC path of ``tokens`` takes: one each, and a blank between repeats."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


class Assemble(Dataset[Batch]):
    """(epoch, cuts) -> Batch: decode, augment, encode, pad. Runs in the loader processes."""

    def __init__(
        self,
        vocabulary: Vocabulary | None,
        augmentation: Augmentation | None,
        seed: int,
        unlabelled: bool = False,
    ) -> None:
        self._vocabulary, self._augmentation, self._seed = vocabulary, augmentation, seed
        self._unlabelled = unlabelled

    def __getitem__(self, item: tuple[int, list[Cut]]) -> Batch:
        epoch, cuts = item
        tokens = self._tokens(cuts)
        heard = [self._waveform(cut, epoch, ids) for cut, ids in zip(cuts, tokens, strict=True)]
        waveforms = [torch.from_numpy(waveform) for waveform, _ in heard]
        return Batch(
            waveforms=pad_sequence(waveforms, batch_first=True),
            sample_counts=torch.tensor([len(waveform) for waveform in waveforms]),
            frame_targets=self._frame_targets(cuts, [(len(w), t) for w, t in heard]),
            **self._said(cuts, tokens),
        )

    def _tokens(self, cuts: Sequence[Cut]) -> list[list[int]]:
        try:
            return [token_ids(cut, self._vocabulary, self._unlabelled) for cut in cuts]
        except ConfigError as error:
            raise DataError(f"a text cannot be written with the vocabulary: {error}") from error

    def _said(self, cuts: Sequence[Cut], tokens: Sequence[list[int]]) -> dict[str, Any]:
        """The fields of a batch that do not depend on the sound."""
        texts = [transcript(cut) for cut in cuts]
        some_unknown = self._vocabulary is not None and None in texts
        return {
            "tokens": pad_sequence(
                [torch.tensor(ids, dtype=torch.int64) for ids in tokens], batch_first=True
            ),
            "token_counts": torch.tensor([len(ids) for ids in tokens]),
            "ids": [cut.id for cut in cuts],
            "texts": [text or "" for text in texts],
            "labelled": torch.tensor([text is not None for text in texts])
            if some_unknown
            else None,
        }

    def _frame_targets(
        self, cuts: Sequence[Cut], heard: Sequence[tuple[int, Timing]]
    ) -> Tensor | None:
        if self._vocabulary is None or not any(is_aligned(cut) for cut in cuts):
            return None
        rows = [
            frame_targets(cut, self._vocabulary, frame_count(samples), timing)
            for cut, (samples, timing) in zip(cuts, heard, strict=True)
        ]
        return pad_sequence(rows, batch_first=True, padding_value=PADDING)

    def _waveform(
        self, cut: Cut, epoch: int, tokens: list[int]
    ) -> tuple[NDArray[np.float32], Timing]:
        waveform = load_waveform(cut)
        if self._augmentation is None:
            return waveform, Timing()
        generator = np.random.default_rng([self._seed, epoch, zlib.crc32(cut.id.encode())])
        least = HOP_SAMPLES * max(1, frames_needed(tokens)) + OVERHANG_SAMPLES
        waveform, timing = augment(waveform, self._augmentation, generator, minimum_samples=least)
        # A codec packet or a rounded resampling may miss the last frame by a few samples.
        return np.pad(waveform, (0, max(0, least - len(waveform)))), timing


def token_ids(cut: Cut, vocabulary: Vocabulary | None, unlabelled: bool = False) -> list[int]:
    if vocabulary is None:
        return []
    text = transcript(cut)
    if text is None and unlabelled:
        return []
    if text is None:
        raise DataError(
            f"{cut.id} has no transcript, which training with a vocabulary needs; leave unlabelled "
            "sources out, or name imitation.teachers that say what is in them (an empty text is a "
            "recording without words)"
        )
    return vocabulary.encode(text)
