"""Text -> the numbers that a recurrent language model learns from and is measured on."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rdsdk.data.ngram import sentences
from rdsdk.errors import DataError
from rdsdk.models.rnnlm import END, UNKNOWN

_END, _UNKNOWN = 0, 1


@dataclass(frozen=True)
class Text:
    """Sentences as numbers, in their order, the end of a sentence after each.

    Attributes:
        words: the V words by number.
        train: (W,) int32.
        held_out: sentences that are measured on and not learnt from, each (L,) int32.
    """

    words: tuple[str, ...]
    train: np.ndarray
    held_out: tuple[np.ndarray, ...]

    @property
    def held_out_words(self) -> int:
        """Words and ends of sentences held out."""
        return sum(len(sentence) for sentence in self.held_out)

    @property
    def unknown_share(self) -> float:
        """The share of <unk> in what is held out, else in what is learnt from."""
        numbers = np.concatenate(self.held_out) if self.held_out else self.train
        return float((numbers == _UNKNOWN).mean())

    @property
    def checksum(self) -> int:
        """Another for another text or vocabulary."""
        begun = zlib.crc32("\n".join(self.words).encode())
        return zlib.crc32(self.train.tobytes(), begun)

    def streams(self, count: int) -> Tensor:
        """The text cut into ``count`` streams of one length, side by side: (L, count) int32."""
        length = len(self.train) // count
        return torch.from_numpy(self.train[: length * count].reshape(count, length).T.copy())


def read_text(paths: Sequence[Path], most_words: int, held_out: float) -> Text:
    """Read texts of a sentence a line; the last sentences are held out, as ``prepare ngram`` does.

    Args:
        most_words: V at most, ``</s>`` and ``<unk>`` among them: the most frequent are known.
        held_out: the share of sentences.

    Raises:
        DataError: a text cannot be read, or there are no words to learn from.
    """
    lines = [line for path in paths for line in sentences(path)]
    learnt = len(lines) - round(held_out * len(lines))
    counts = Counter(word for line in lines[:learnt] for word in line.split())
    known = [word for word, _ in counts.most_common(most_words) if word not in (END, UNKNOWN)]
    words = (END, UNKNOWN, *known[: most_words - 2])
    if len(words) < 3:
        raise DataError(f"there are no words to learn from in {', '.join(map(str, paths))}")
    index = {word: number for number, word in enumerate(words)}

    def numbers(some: Iterable[str]) -> list[int]:
        return [
            number
            for line in some
            for number in (*(index.get(word, _UNKNOWN) for word in line.split()), _END)
        ]

    return Text(
        words,
        np.array(numbers(lines[:learnt]), np.int32),
        tuple(np.array(numbers([line]), np.int32) for line in lines[learnt:]),
    )
