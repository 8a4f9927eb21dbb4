"""A queue of samples: added in blocks of any size, read and dropped at the front."""

from __future__ import annotations

import numpy as np


class Samples:
    """Joins its blocks only when they are read, so that feeding single samples stays cheap."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._length = 0
        self.total = 0

    def __len__(self) -> int:
        return self._length

    def add(self, block: np.ndarray) -> None:
        """Append samples (S,); they are copied, the caller may reuse its buffer."""
        if len(block):
            self._blocks.append(np.array(block, np.float32))
            self._length += len(block)
            self.total += len(block)

    def first(self, samples: int) -> np.ndarray:
        """The first samples (samples,), which stay in the queue."""
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate(self._blocks)] if self._blocks else []
        return self._blocks[0][:samples] if self._blocks else np.zeros(0, np.float32)

    def drop(self, samples: int) -> None:
        """Remove samples from the front."""
        rest = self.first(self._length)[samples:]
        self._blocks = [rest] if len(rest) else []
        self._length = len(rest)
