"""Frames of a frozen extractor, kept on disk: decoded, augmented and convolved once, used often;
and energies and what teachers say, where they are asked for.

Several passes over a corpus, each with its own augmentation, are one file each; epoch e of a run
takes pass e modulo their number. Which utterances make a batch does not depend on it, so that a run
with kept frames sees what it would have seen without them, until the passes come again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lhotse.cut import Cut
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rdsdk.data.alignment import PADDING
from rdsdk.data.batch import Assemble, Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError

DESCRIPTION = "kept.json"
_OF_FRAMES = ("frames", "energies", "teacher_log_probs")


class KeptUtterance(NamedTuple):
    """What is kept of an utterance of T frames; the fields are those of a ``Batch``."""

    samples: int
    targets: Tensor | None
    frames: Tensor
    energies: Tensor | None
    teacher_log_probs: Tensor | None


class KeptFrames:
    """A folder of passes; loader processes each open its files by themselves.

    Args:
        passes: how many of them are used; all, if None.

    Raises:
        DataError: the folder holds no whole pass, or fewer than that.
    """

    def __init__(self, folder: Path, passes: int | None = None) -> None:
        self.folder = folder
        described = description(folder)
        if described is None or int(described["passes"]) < (passes or 1):
            raise DataError(f"{folder} holds no kept frames, or not all; delete it")
        self.passes = passes or int(described["passes"])
        self._open: dict[int, tuple[Any, frozenset[str]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def utterance(self, number: int, name: str) -> KeptUtterance:
        """What is kept of an utterance of a pass.

        Raises:
            DataError: the pass has no such utterance.
        """
        if number not in self._open:
            file = safe_open(str(_file(self.folder, number)), framework="pt")
            self._open[number] = file, frozenset(file.keys())
        file, names = self._open[number]

        def tensor(what: str) -> Tensor | None:
            key = f"{what} {name}"
            return file.get_tensor(key) if key in names else None

        samples, frames, targets = tensor("samples"), tensor("frames"), tensor("targets")
        if samples is None or frames is None:
            raise DataError(
                f"{name} is not among the kept frames in {self.folder}: the data changed; delete "
                "the folder"
            )
        return KeptUtterance(
            int(samples),
            None if targets is None else targets.long(),
            frames,
            tensor("energies"),
            tensor("teacher_log_probs"),
        )


def description(folder: Path) -> dict[str, Any] | None:
    """What was kept in a folder; None if nothing, or not all of it."""
    try:
        value = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(value, dict) and all(
        _file(folder, number).is_file() for number in range(int(value.get("passes", 0)))
    )
    return value if whole else None


def keep(
    folder: Path,
    passes: Iterable[Iterable[Batch]],
    described: Mapping[str, Any],
    there: int = 0,
) -> None:
    """Write passes, batch by batch with its frames, after those that are ``there``; after each
    the description says how many are. What is interrupted can go on with the next."""
    folder.mkdir(parents=True, exist_ok=True)
    if not there:
        (folder / DESCRIPTION).unlink(missing_ok=True)
    part = folder / "part"
    for number, batches in enumerate(passes, there):
        save_file(dict(_tensors(batches)), part)
        part.replace(_file(folder, number))
        part.write_text(json.dumps({**described, "passes": number + 1}))
        part.replace(folder / DESCRIPTION)


class AssembleKept(Assemble):
    """(epoch, cuts) -> Batch of kept frames, without sound."""

    def __init__(
        self, vocabulary: Vocabulary | None, kept: KeptFrames, unlabelled: bool = False
    ) -> None:
        super().__init__(vocabulary, None, 0, unlabelled)
        self._kept = kept

    def __getitem__(self, item: tuple[int, list[Cut]]) -> Batch:
        epoch, cuts = item
        number = epoch % self._kept.passes
        rows = [self._kept.utterance(number, cut.id) for cut in cuts]
        aligned = any(row.targets is not None for row in rows)
        targets = [
            torch.full((len(row.frames),), PADDING) if row.targets is None else row.targets
            for row in rows
        ]
        of_frames: dict[str, Any] = {
            name: _padded([getattr(row, name) for row in rows]) for name in _OF_FRAMES
        }
        return Batch(
            waveforms=torch.zeros(len(cuts), 0),
            sample_counts=torch.tensor([row.samples for row in rows]),
            frame_targets=pad_sequence(targets, batch_first=True, padding_value=PADDING)
            if aligned
            else None,
            **of_frames,
            **self._said(cuts, self._tokens(cuts)),
        )


def _padded(rows: Sequence[Tensor | None]) -> Tensor | None:
    """(B, T, ...) of what all rows have; None if they have not."""
    there = [row for row in rows if row is not None]
    return pad_sequence(there, batch_first=True) if len(there) == len(rows) else None


def _file(folder: Path, number: int) -> Path:
    return folder / f"pass-{number}.safetensors"


def _tensors(batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
    for batch in batches:
        for row, (name, count) in enumerate(
            zip(batch.ids, batch.frame_counts.tolist(), strict=True)
        ):
            for what in _OF_FRAMES:
                if (said := getattr(batch, what)) is not None:
                    yield f"{what} {name}", said[row, :count].clone()
            yield f"samples {name}", batch.sample_counts[row].clone()
            if batch.frame_targets is not None:
                targets = batch.frame_targets[row, :count]
                if not (targets == PADDING).all():
                    yield f"targets {name}", targets.to(torch.int16)
