"""Incremental greedy CTC: the likeliest symbol of every frame, collapsed to timed words.

Times are those of the symbol's frames. CTC symbols are short peaks, so a word begins where its
first symbol peaks and ends where its last one does: a little inside what an ear would mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rdsdk.decoding.lexicon import Lexicon
from rdsdk.decoding.segment import Word
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError

# Frames without a symbol that are kept before a word, for a first letter that was missed.
_LEAD_FRAMES = 10


@dataclass
class _Open:
    """The word being read."""

    ids: list[int] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    first_frame: int = 0
    last_frame: int = 0


class GreedyDecoder:
    """Feed frames in any portions; the words are the same as for all frames at once.

    Args:
        vocabulary: with ``word_boundary=None`` each symbol is a word and ends with its run of
            frames; otherwise a word ends at the boundary symbol. With a ``lexicon``, a word outside
            it is replaced by the likeliest word of the lexicon, or dropped (see ``lexicon.py``).
        frame_seconds: seconds from one frame to the next.
    """

    def __init__(self, vocabulary: Vocabulary, frame_seconds: float = 0.02) -> None:
        self.vocabulary = vocabulary
        self.frame_seconds = frame_seconds
        self._lexicon = None if vocabulary.lexicon is None else Lexicon(vocabulary)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is at second 0."""
        self._frame = 0
        self._previous = self.vocabulary.blank
        self._open: _Open | None = None
        self._kept: list[np.ndarray] = []  # the frames of the open word and a few before it

    @property
    def seconds(self) -> float:
        """The seconds decoded so far."""
        return self._seconds(self._frame)

    @property
    def last_symbol_seconds(self) -> float | None:
        """Where the last symbol of the open word ends; None when no word is open."""
        return None if self._open is None else self._seconds(self._open.last_frame + 1)

    @property
    def open_seconds(self) -> float | None:
        """Where the open word begins; None when no word is open."""
        return None if self._open is None else self._seconds(self._open.first_frame)

    @property
    def between_words(self) -> bool:
        """Whether no word is open."""
        return self._open is None

    def feed(self, log_probs: np.ndarray) -> list[Word]:
        """Read frames (T, V) and return the words that they completed.

        Raises:
            ConfigError: the frames do not have one column for each symbol.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.vocabulary):
            raise ConfigError(
                f"got log_probs of shape {log_probs.shape}, expected (T, {len(self.vocabulary)}): "
                "one column for each symbol of the vocabulary"
            )
        best = log_probs.argmax(axis=1)
        words = []
        for row, symbol in zip(log_probs, best.tolist(), strict=True):
            word = self._step(row, symbol)
            if word is not None:
                words.append(word)
        return words

    def end_word(self) -> Word | None:
        """Complete the open word without waiting for its boundary; None when there is none."""
        if self._open is None:
            return None
        opened, self._open = self._open, None
        kept, self._kept = self._kept, []
        text = self.vocabulary.decode(opened.ids)
        confidence = float(np.exp(np.mean(opened.peaks)))
        if self._lexicon is not None and text not in self._lexicon:
            closest = self._lexicon.closest(np.stack(kept), opened.ids)
            if closest is None:
                return None
            text, confidence = closest
        return Word(
            text,
            self._seconds(opened.first_frame),
            self._seconds(opened.last_frame + 1),
            min(max(confidence, 0.0), 1.0),
        )

    def pending(self) -> Word | None:
        """The open word as it stands, without completing it.

        With a lexicon only what some word of it starts with is shown.
        """
        if self._open is None:
            return None
        text = self.vocabulary.decode(self._open.ids)
        if self._lexicon is not None and not self._lexicon.begins(text):
            return None
        return Word(
            text,
            self._seconds(self._open.first_frame),
            self._seconds(self._open.last_frame + 1),
            min(float(np.exp(np.mean(self._open.peaks))), 1.0),
        )

    def unfinished(self) -> list[Word]:
        """``pending`` as a list, as every decoder gives it."""
        pending = self.pending()
        return [] if pending is None else [pending]

    def end(self) -> list[Word]:
        """``end_word`` as a list, as every decoder gives it."""
        last = self.end_word()
        return [] if last is None else [last]

    def _seconds(self, frame: int) -> float:
        # To the microsecond, so that 328 frames are 6.56 s and not 6.5600000000000005.
        return round(frame * self.frame_seconds, 6)

    def _step(self, row: np.ndarray, symbol: int) -> Word | None:
        word = None
        repeated = symbol == self._previous
        ends = symbol == self.vocabulary.boundary_id
        if self.vocabulary.word_boundary is None and not repeated:
            ends = True  # a run of a whole-word symbol is over
        if ends:
            word = self.end_word()
        if symbol != self.vocabulary.blank and symbol != self.vocabulary.boundary_id:
            self._add(symbol, float(row[symbol]), repeated)
        if symbol == self.vocabulary.boundary_id:
            self._kept.clear()
        else:
            self._keep(row)
        self._previous = symbol
        self._frame += 1
        return word

    def _add(self, symbol: int, log_prob: float, repeated: bool) -> None:
        if self._open is None:
            # A forced end may fall inside a run: the rest of the run is not a new symbol.
            if repeated:
                return
            self._open = _Open(first_frame=self._frame)
        if repeated:
            self._open.peaks[-1] = max(self._open.peaks[-1], log_prob)
        else:
            self._open.ids.append(symbol)
            self._open.peaks.append(log_prob)
        self._open.last_frame = self._frame

    def _keep(self, row: np.ndarray) -> None:
        if self._lexicon is None:
            return
        self._kept.append(row.copy())  # a view would hold on to the whole block
        if self._open is None:
            del self._kept[:-_LEAD_FRAMES]
