"""A recurrent word language model in the runtime: the file ``.rnnlm`` that ``rdsdk export`` writes.

It is an ExecuTorch program with one method, ``advance``: words (N,), hidden (N, P) and cell (N, H)
-> log_probs (N, V), hidden and cell, and a card. Shapes: V words known, P and H widths of the
state; log probabilities are natural logarithms.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rdsdk.errors import ModelError
from rdsdk.runtime import executorch
from rdsdk.runtime.artefact import read_artefact

FORMAT = "rdsdk-rnnlm"
VERSION = 1
END, UNKNOWN = "</s>", "<unk>"
METHOD = "advance"
_INT64, _FLOAT32 = 4, 6  # ExecuTorch's ScalarType


class State(NamedTuple):
    """What a sentence has been so far: hidden (P,) and cell (H,), float32."""

    hidden: np.ndarray
    cell: np.ndarray


class RnnLm:
    """A model loaded once. It may be called from any thread; one call runs at a time.

    Attributes:
        path: the file, read whole: replacing it later changes nothing here.
        words: the V words, ``</s>`` and ``<unk>`` first.
        card: what the file says about itself.

    Raises:
        ModelError: the file is missing, damaged, no recurrent language model, of a newer version,
            or its program is not what its card says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ModelError(
                f"there is no recurrent language model at {self.path}; expected a .rnnlm file, as "
                "rdsdk export writes"
            )
        # The binding keeps a bare pointer into these bytes: they must outlive the program.
        self._data = read_artefact(self.path)
        self._lock = threading.Lock()
        self._program = executorch.load_program(self._data, self.path)
        self.card = self._read_card()
        self.words: tuple[str, ...] = tuple(self.card["words"])
        self._index = {word: index for index, word in enumerate(self.words)}
        self._shapes = (self.card["projection"],), (self.card["hidden"],)
        self._most = self._check_signature()
        executorch.pool_is_used()
        self._method = executorch.load_method(self._program, METHOD, self.path)

    @property
    def end(self) -> int:
        """The index of ``</s>``: first read, so that a sentence begins."""
        return self._index[END]

    @property
    def unknown(self) -> int:
        """The index of ``<unk>``."""
        return self._index[UNKNOWN]

    def index(self, word: str) -> int:
        """The index of a word, written as in ``words``; that of ``<unk>`` for any other."""
        return self._index.get(word, self.unknown)

    def fresh(self) -> State:
        """The state in which nothing has been read: zeros."""
        return State(*(np.zeros(shape, np.float32) for shape in self._shapes))

    def advance(
        self, words: Sequence[int], states: Sequence[State]
    ) -> list[tuple[State, np.ndarray]]:
        """Read one word more in each of some sentences; they do not depend on each other.

        Args:
            words: the index of the next word of each.
            states: what each has been so far; none of them is changed.

        Returns:
            for each its new state, and the log probabilities (V,) float32 of the word after it.

        Raises:
            ModelError: an index or a state that this model does not have, not as many states as
                words, or the program failed.
        """
        if len(words) != len(states):
            raise ModelError(f"{self.path}: got {len(words)} words and {len(states)} states")
        if wrong := [word for word in words if not 0 <= word < len(self.words)]:
            raise ModelError(
                f"{self.path}: got the word number {wrong[0]}, expected 0 to {len(self.words) - 1}"
            )
        for state in states:
            shapes = state.hidden.shape, state.cell.shape
            if shapes != self._shapes:
                raise ModelError(
                    f"{self.path}: got a state of shapes {shapes}, expected {self._shapes}"
                )
        done: list[tuple[State, np.ndarray]] = []
        for begin in range(0, len(words), self._most):
            part = slice(begin, begin + self._most)
            done += self._run(words[part], states[part])
        return done

    def _run(self, words: Sequence[int], states: Sequence[State]) -> list[tuple[State, np.ndarray]]:
        import torch

        arrays = (
            np.array(words, np.int64),
            np.stack([state.hidden for state in states]).astype(np.float32, copy=False),
            np.stack([state.cell for state in states]).astype(np.float32, copy=False),
        )
        with self._lock:
            try:
                outputs = self._method([torch.from_numpy(array) for array in arrays])
            except executorch.FAULTS as error:
                raise ModelError(f"{self.path}: the program failed to run: {error}") from error
        log_probs, hidden, cell = (output.numpy() for output in outputs)
        # Copied, so that who keeps one of them does not keep all.
        return [
            (State(hidden[row].copy(), cell[row].copy()), log_probs[row].copy())
            for row in range(len(words))
        ]

    def _read_card(self) -> dict[str, Any]:
        names = executorch.method_names(self._program, self.path)
        card: Any = None
        if "card" in names:
            try:
                card = json.loads(executorch.card_text(self._program, self.path))
            except ValueError as error:
                raise ModelError(f"{self.path}: its card cannot be read ({error})") from None
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            other = "; it is a model that hears" if isinstance(card, dict) else ""
            raise ModelError(
                f"{self.path} is an ExecuTorch program with the methods {sorted(names)}, but no "
                f"recurrent language model{other}; make one with rdsdk prepare rnnlm and rdsdk "
                "export"
            )
        if card.get("version") != VERSION:
            raise ModelError(
                f"{self.path} has version {card.get('version')!r}, this rdsdk reads {VERSION}; "
                "upgrade rdsdk"
            )
        if METHOD not in names or not _is_card(card):
            raise ModelError(
                f"{self.path}: its card has no words that begin with {END} and {UNKNOWN}, no "
                f"widths, or it has no method {METHOD}; export it again"
            )
        return card

    def _check_signature(self) -> int:
        """The most sentences of one call. A program of other shapes would end the process."""
        given, made = executorch.planned(self._program, METHOD, self.path)
        planned = [(tuple(info.sizes()), info.dtype()) for info in (*given, *made)]
        most = planned[0][0][0] if planned and planned[0][0] else 0
        state = [((most, *shape), _FLOAT32) for shape in self._shapes]
        expected = [((most,), _INT64), *state, ((most, len(self.words)), _FLOAT32), *state]
        if len(given) != 3 or planned != expected or most < 1:
            raise ModelError(
                f"{self.path}: its method {METHOD} takes and gives (shape, type) {planned}, its "
                f"card says {expected}; export it again"
            )
        return most


def _is_card(card: dict[str, Any]) -> bool:
    words = card.get("words")
    return (
        isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and words[:2] == [END, UNKNOWN]
        and len(set(words)) == len(words)
        and all(type(card.get(name)) is int and card[name] > 0 for name in ("projection", "hidden"))
    )


def load_rnnlm(path: str | Path) -> RnnLm:
    """The model of a file, kept for the next who asks, until the file changes.

    Raises:
        ModelError: as ``RnnLm``.
    """
    path = Path(path).absolute()
    return _shared(path, path.stat().st_mtime_ns if path.is_file() else None)


@lru_cache(maxsize=2)
def _shared(path: Path, changed: int | None) -> RnnLm:
    return RnnLm(path)
