"""Frames of a frozen extractor, kept on disk: decoded, augmented and convolved once, used often.

Several passes over a corpus, each with its own augmentation, are one file each; epoch e of a run
takes pass e modulo their number. Which utterances make a batch does not depend on it, so that a run
with kept frames sees what it would have seen without them, until the passes come again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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


class KeptFrames:
    """A folder of passes; loader processes each open its files by themselves.

    Raises:
        DataError: the folder holds no whole set of passes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = description(folder)
        if described is None:
            raise DataError(f"{folder} holds no kept frames, or not all; delete it")
        self.passes = int(described["passes"])
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def utterance(self, number: int, name: str) -> tuple[Tensor, int, Tensor | None]:
        """Frames (T, C), samples, and the frames' targets (T,) of an utterance of a pass.

        Raises:
            DataError: the pass has no such utterance.
        """
        if number not in self._open:
            self._open[number] = safe_open(str(_file(self.folder, number)), framework="pt")
        file = self._open[number]
        try:
            frames = file.get_tensor(f"frames {name}")
            samples = int(file.get_tensor(f"samples {name}"))
        except Exception as error:  # safetensors has an exception of its own for it
            raise DataError(
                f"{name} is not among the kept frames in {self.folder}: the data changed; delete "
                "the folder"
            ) from error
        aligned = f"targets {name}" in file.keys()  # noqa: SIM118 - no mapping
        return frames, samples, file.get_tensor(f"targets {name}").long() if aligned else None


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
    folder: Path, passes: Iterable[Iterable[tuple[Batch, Tensor]]], described: Mapping[str, Any]
) -> None:
    """Write passes, batch by batch with the extractor's frames (B, T, C) of it; the description,
    which says that all is there, last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    number = -1
    for number, batches in enumerate(passes):
        part = folder / "part"
        save_file(dict(_tensors(batches)), part)
        part.replace(_file(folder, number))
    (folder / DESCRIPTION).write_text(json.dumps({**described, "passes": number + 1}))


class AssembleKept(Assemble):
    """(epoch, cuts) -> Batch of kept frames, without sound."""

    def __init__(self, vocabulary: Vocabulary | None, kept: KeptFrames) -> None:
        super().__init__(vocabulary, None, 0)
        self._kept = kept

    def __getitem__(self, item: tuple[int, list[Cut]]) -> Batch:
        epoch, cuts = item
        number = epoch % self._kept.passes
        rows = [self._kept.utterance(number, cut.id) for cut in cuts]
        aligned = any(targets is not None for _, _, targets in rows)
        targets = [
            torch.full((len(frames),), PADDING) if known is None else known
            for frames, _, known in rows
        ]
        return Batch(
            waveforms=torch.zeros(len(cuts), 0),
            sample_counts=torch.tensor([samples for _, samples, _ in rows]),
            frame_targets=pad_sequence(targets, batch_first=True, padding_value=PADDING)
            if aligned
            else None,
            frames=pad_sequence([frames for frames, _, _ in rows], batch_first=True),
            **self._said(cuts, self._tokens(cuts)),
        )


def _file(folder: Path, number: int) -> Path:
    return folder / f"pass-{number}.safetensors"


def _tensors(batches: Iterable[tuple[Batch, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for batch, frames in batches:
        for row, (name, count) in enumerate(
            zip(batch.ids, batch.frame_counts.tolist(), strict=True)
        ):
            yield f"frames {name}", frames[row, :count].clone()
            yield f"samples {name}", batch.sample_counts[row].clone()
            if batch.frame_targets is not None:
                targets = batch.frame_targets[row, :count]
                if not (targets == PADDING).all():
                    yield f"targets {name}", targets.to(torch.int16)
