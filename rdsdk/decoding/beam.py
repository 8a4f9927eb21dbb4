"""Incremental CTC beam search with a language model and hotwords, on flashlight-text, or on
``rdsdk.decoding.trie_search`` in its place.

The library keeps every hypothesis with its history. Words are given as soon as all hypotheses
agree on them, and their frames are forgotten; so what was given never changes, and nothing is lost
beside decoding all frames at once. Where they do not agree for three seconds, the best hypothesis
is taken but for its last second, which is searched again behind its last words; where nobody speaks
for two seconds, the search begins anew. That keeps an endless stream small.

Everything is decided at frames counted from where the search began, never by how frames were cut
into portions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rdsdk.decoding.reading import Read, read_path, seconds_of, word_of
from rdsdk.decoding.rereading import HYPOTHESES, Rereader
from rdsdk.decoding.search import IMPOSSIBLE, BeamSearch
from rdsdk.decoding.segment import Word
from rdsdk.errors import ConfigError, ModelError

CHECK_FRAMES = 16
"""So often it is looked whether the hypotheses agree."""
REST_FRAMES = 100
"""After so many frames without a symbol the search begins anew."""
DISAGREEMENT_FRAMES = 150
"""So long the hypotheses may disagree about a word."""
_UNDECIDED_FRAMES = 50  # the last ones, which are searched again after a disagreement
_CONTEXT_WORDS = 5  # what a language model is told of the words before them
_LEAD_FRAMES = 25  # heard again when a search begins anew in silence: a word may begin there


class BeamDecoder:
    """A ``Decoder`` that searches; one for each stream, all of one ``BeamSearch``.

    Args:
        search: the words, the language model and the settings.
        frame_seconds: seconds from one frame to the next.
    """

    def __init__(self, search: BeamSearch, frame_seconds: float = 0.02) -> None:
        self.vocabulary = search.vocabulary
        self.frame_seconds = frame_seconds
        self._search = search
        rescorer = search.rescorer()
        self._rereader: Rereader | None = None
        if rescorer is not None:
            sums = search.settings.sum_alignments
            self._rereader = Rereader(
                rescorer, search.vocabulary, search.spoken, frame_seconds, sums
            )
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame is at second 0."""
        self._frame = 0
        self.settled = 0  # so often the hypotheses did not come to agree
        self._cut: int | None = None  # the symbol in whose run a forced end fell
        self._argmax = self.vocabulary.blank
        self._inside = False  # a word, by the likeliest symbols
        self._first_heard: int | None = None
        self._last_heard = 0
        self._context: list[tuple[int, ...]] = []  # the last words that were given
        if self._rereader is not None:
            self._rereader.reset()
        self._begin([])

    @property
    def seconds(self) -> float:
        """The seconds decoded so far."""
        return self._seconds(self._frame)

    @property
    def open_seconds(self) -> float | None:
        """Where the first symbol that is not given yet begins; None when there is none."""
        begins = (self._first_heard, self._unsaid and self._unsaid[0])
        return min((self._seconds(frame) for frame in begins if frame is not None), default=None)

    @property
    def last_symbol_seconds(self) -> float | None:
        """Where the last symbol that is not given yet ends; None when there is none."""
        if self._first_heard is not None:
            return self._seconds(self._last_heard + 1)
        return None if self._unsaid is None else self._seconds(self._unsaid[1])

    @property
    def _unsaid(self) -> tuple[int, int] | None:
        """The frames of what the rescoring keeps back."""
        return None if self._rereader is None else self._rereader.unsaid

    @property
    def between_words(self) -> bool:
        """Whether no word is being read, by the likeliest symbols alone."""
        if self.vocabulary.word_boundary is None or self._search.is_pronounced:
            return self._argmax == self.vocabulary.blank
        return not self._inside

    @property
    def kept_frames(self) -> int:
        """How many frames the search still remembers."""
        return len(self._rows)

    def feed(self, log_probs: np.ndarray) -> list[Word]:
        """Read frames (T, V) and return the words that will not change any more.

        Raises:
            ConfigError: the frames do not have one column for each symbol.
            ModelError: they are not numbers; the decoder must be reset.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != self._search.columns:
            raise ConfigError(
                f"got log_probs of shape {log_probs.shape}, expected (T, {self._search.columns}): "
                "one column for each symbol of the vocabulary"
            )
        words: list[Word] = []
        for row in self._search.allowed(log_probs, self._argmax, self._frame):
            self._step(self._heard(row))
            self._frame += 1
            self._searched += 1
            if self._searched % CHECK_FRAMES == 0:
                words += self._check()
        return words

    def unfinished(self) -> list[Word]:
        """The words of the best hypothesis that are not given yet, as they stand."""
        if not self._rows:
            return []
        complete, opened = self._read(self._best())
        if self._rereader is not None:
            words, count = self._rereader.unfinished(complete, self._start)
            return [*words, *(self._word(read) for read in complete[count:])]
        # Phones are no text: of a word that is not complete nothing can be shown.
        shown = opened is not None and not self._search.is_pronounced
        return [self._word(read) for read in (*complete, *([opened] if shown and opened else []))]

    def end(self) -> list[Word]:
        """Complete and return what is not given yet; what follows is read by itself."""
        words = self._finish()
        quiet = (self.vocabulary.blank, self.vocabulary.boundary_id)
        self._cut = None if self._argmax in quiet else self._argmax
        self._begin([])
        return words

    def _begin(self, rows: Sequence[np.ndarray]) -> None:
        """Search from here on; ``rows`` are the last frames, to be searched again."""
        self._decoder: Any = self._search.new()
        self._decoder.decode_begin()
        # The words before are said again, beyond doubt: that is all the search must know of them.
        said = [self._surely(symbol) for ids in self._context for symbol in self._spelled(ids)]
        for row in said:
            self._decoder.decode_step(row.ctypes.data, 1, len(row))
        self._start = self._frame - len(rows)  # where the paths begin
        self._path: list[int] = []  # the first symbols of all paths, which the search has forgotten
        self._given = len(said)  # frames before them, which it has not forgotten
        self._rows: list[np.ndarray] = []
        self._searched = 0
        if self._rereader is not None:
            self._rereader.begin(self._start)
        for row in rows:
            self._step(row)

    def _step(self, row: np.ndarray) -> None:
        self._rows.append(row)
        self._decoder.decode_step(row.ctypes.data, 1, len(row))

    def _heard(self, row: np.ndarray) -> np.ndarray:
        """Follow what the frame most likely says; the frame, or a blank inside a cut run."""
        symbol = int(row.argmax())
        if symbol == self._cut:
            return self._surely(self.vocabulary.blank)
        self._cut, self._argmax = None, symbol
        if symbol == self.vocabulary.boundary_id:
            self._inside = False
        elif symbol != self.vocabulary.blank:
            self._inside = True
            self._open(self._frame, self._frame)
        return row.copy()  # a view would hold on to the whole block

    def _open(self, first: int, last: int) -> None:
        if self._first_heard is None:
            self._first_heard, self._last_heard = first, last
        self._last_heard = max(self._last_heard, last)

    def _spelled(self, ids: Sequence[int]) -> list[int]:
        """A word as frames: blanks between its symbols, and what ends it."""
        end = self.vocabulary.boundary_id
        blank = self.vocabulary.blank
        return [*(s for symbol in ids for s in (symbol, blank)), blank if end is None else end]

    def _surely(self, symbol: int) -> np.ndarray:
        row = np.full(len(self.vocabulary), IMPOSSIBLE, np.float32)
        row[symbol] = 0.0
        return row

    def _hypotheses(self) -> tuple[list[Any], int]:
        """All hypotheses, and which of them is the best."""
        hypotheses = self._decoder.get_all_final_hypothesis()
        if not hypotheses:
            raise ModelError(
                "no text fits the log_probs, as when they are not numbers; call reset() to go on"
            )
        return hypotheses, max(range(len(hypotheses)), key=lambda n: hypotheses[n].score)

    def _best(self) -> np.ndarray:
        """The symbols (T,) of the best hypothesis."""
        hypotheses, best = self._hypotheses()
        return self._symbols(hypotheses[best])

    def _symbols(self, hypothesis: Any) -> np.ndarray:
        """The symbols (T,) of a hypothesis."""
        path: np.ndarray = self._paths([hypothesis])[0]
        return path

    def _leading(self, hypotheses: Sequence[Any]) -> np.ndarray:
        """The symbols (N, T) of those that are read again, the best first."""
        return self._paths(heapq.nlargest(HYPOTHESES, hypotheses, key=lambda one: one.score))

    def _paths(self, hypotheses: Sequence[Any]) -> np.ndarray:
        """The symbols (N, T) of hypotheses.

        With pronunciations, the end of the word with label n is V + 1 + n, of V symbols that are
        searched: hypotheses agree when their words do.
        """
        after = 1 + self._given  # the first symbol is no frame
        searched = np.array([one.tokens[after:] for one in hypotheses], int)
        if self._search.is_pronounced:
            labels = np.array([one.words[after:] for one in hypotheses], int)
            ends = searched == self.vocabulary.boundary_id
            searched = np.where(ends, len(self.vocabulary) + 1 + labels, searched)
        forgotten = np.tile(np.array(self._path, int), (len(hypotheses), 1))
        return np.concatenate([forgotten, searched], axis=1)

    def _agreed(self, hypotheses: Sequence[Any], path: np.ndarray, least: int) -> int:
        """So many first symbols of ``path`` have all hypotheses; 0 if not even ``least`` of them.

        Those made last are the worst, and the first to differ: most often few are looked at.
        """
        agreed = len(path)
        for hypothesis in reversed(hypotheses):
            same = self._symbols(hypothesis)[:agreed] == path[:agreed]
            if not same.all():
                agreed = int(same.argmin())
                if agreed < least:
                    return 0
        return agreed

    def _check(self) -> list[Word]:
        hypotheses, best = self._hypotheses()
        path = self._symbols(hypotheses[best])
        reread: list[Word] = []
        if self._rereader is not None:
            reread = self._rereader.extend(self._leading(hypotheses), self._rows, self._start)
        complete, opened = self._read(path)
        latest = opened or (complete[-1] if complete else None)
        quiet_since = self._start if latest is None else self._start + latest.runs[-1][1]
        if self._first_heard is not None:
            quiet_since = max(quiet_since, self._last_heard + 1)
        if self._frame - quiet_since >= REST_FRAMES:
            lead = self._rows[-_LEAD_FRAMES:]
            words = self._finish()
            self._begin(lead)
            return [*reread, *words]
        # The search forgets up to the frame behind a boundary, and must keep one.
        given = [read for read in complete if read.end < len(path) - 1]
        if given:
            agreed = self._agreed(hypotheses, path, given[0].end + 1)
            given = self._whole([read for read in given if read.end < agreed], path)
        if not given and len(self._rows) >= DISAGREEMENT_FRAMES:
            return [*reread, *self._settle(path, complete)]
        words = reread if self._rereader is not None else [self._word(read) for read in given]
        if given:
            self._remember(given)
            self._forget(path, given[-1].end)
        self._follow([*complete[len(given) :], *([opened] if opened else [])], bool(given))
        return words

    def _forget(self, path: np.ndarray, end: int) -> None:
        """All hypotheses agree on the words that end here: only what follows is kept."""
        self._decoder.prune(len(path) - (end + 1))
        self._start += end
        del self._rows[:end]
        # The search forgets from a place behind a word: of a hotword of several, the last one.
        left = len(self._decoder.get_all_final_hypothesis()[0].tokens) - 1
        self._path = path[end : len(path) - left].tolist()
        self._given = max(0, left - len(self._rows))

    def _follow(self, remaining: Sequence[Read], gave: bool) -> None:
        """What is open is what the best hypothesis heard, or the likeliest symbols say."""
        if gave:
            self._first_heard = None
            if self._last_heard >= self._start:
                self._open(self._last_heard, self._last_heard)
        if remaining:
            first = self._start + remaining[0].runs[0][0]
            self._open(first, self._start + remaining[-1].runs[-1][1] - 1)
            if gave:
                self._first_heard = first

    def _settle(self, path: np.ndarray, complete: Sequence[Read]) -> list[Word]:
        """The hypotheses do not come to agree: the best one's words are taken, or cut."""
        self.settled += 1
        certain = len(self._rows) - _UNDECIDED_FRAMES
        given = self._whole([read for read in complete if read.end <= certain], path)
        if not given:
            words = self._finish()
            self._begin([])
            return words
        if self._rereader is None:
            words = [self._word(read) for read in given]
        else:
            end = given[-1].end
            words = self._rereader.settle(path[:end], self._rows[:end], self._start)
        self._remember(given)
        self._begin(self._rows[given[-1].end :])
        remaining, opened = self._read(self._best())
        self._follow([*remaining, *([opened] if opened else [])], gave=True)
        return words

    def _remember(self, given: Sequence[Read]) -> None:
        if self._search.settings.lm is not None:
            self._context = [*self._context, *(read.ids for read in given)][-_CONTEXT_WORDS:]

    def _finish(self) -> list[Word]:
        """The words of the best hypothesis, if what was heard ends here."""
        words: list[Word] = []
        if self._rows:
            boundary = self.vocabulary.boundary_id
            rows = self._rows
            if boundary is not None:
                row = self._surely(boundary)
                if self._search.is_pronounced:
                    row[self.vocabulary.blank] = 0.0  # nor need a word be ended where none is open
                self._decoder.decode_step(row.ctypes.data, 1, len(row))
                rows = [*rows, row]
            self._decoder.decode_end()
            words = self._ended(rows)
        self._first_heard, self._inside = None, False
        self._context = []
        return words

    def _ended(self, rows: Sequence[np.ndarray]) -> list[Word]:
        """The words of hypotheses that are over. Their last symbol is no frame either."""
        hypotheses, best = self._hypotheses()
        if self._rereader is not None:
            return self._rereader.finish(self._leading(hypotheses)[:, :-1], rows, self._start)
        # Without a boundary the blank ends the last word.
        path = self._symbols(hypotheses[best])[:-1]
        complete, _ = self._read([*path, self.vocabulary.blank])
        return [self._word(read) for read in complete]

    def _read(self, path: Iterable[int]) -> tuple[list[Read], Read | None]:
        """The words on a path, complete ones and an open one."""
        search = self._search
        return read_path(path, self.vocabulary, search.spoken if search.is_pronounced else None)

    def _whole(self, reads: list[Read], path: np.ndarray) -> list[Read]:
        """Those up to the last one that ends where a label does: arcs are whole hotwords."""
        if self._rereader is None:
            return reads
        ends = [n for n, one in enumerate(reads, 1) if path[one.end - 1] > len(self.vocabulary)]
        return reads[: max(ends, default=0)]

    def _word(self, read: Read) -> Word:
        return word_of(read, self._rows, self._start, self.frame_seconds)

    def _seconds(self, frame: int) -> float:
        return seconds_of(frame, self.frame_seconds)
