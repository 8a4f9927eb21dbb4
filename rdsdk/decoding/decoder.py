"""What every decoder is to a segmenter: frames in, words out, and what is still open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.segment import Word
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError


class Decoder(Protocol):
    """Feed frames in any portions; the words are the same as for all frames at once."""

    def reset(self) -> None:
        """Forget everything: the next frame is at second 0."""

    @property
    def seconds(self) -> float:
        """The seconds decoded so far."""

    @property
    def open_seconds(self) -> float | None:
        """Where what is not given yet begins; None when everything that was heard was given."""

    @property
    def last_symbol_seconds(self) -> float | None:
        """Where the last symbol of what is not given yet ends; None when there is nothing."""

    @property
    def between_words(self) -> bool:
        """Whether no word is being read."""

    def feed(self, log_probs: np.ndarray) -> list[Word]:
        """Read frames (T, V) and return the words that will not change any more."""

    def unfinished(self) -> list[Word]:
        """The words that are not given yet as they stand, an unfinished last one included."""

    def end(self) -> list[Word]:
        """Complete and return what is not given yet; what follows is read by itself."""


def new_decoder(
    vocabulary: Vocabulary,
    frame_seconds: float = 0.02,
    beam: BeamSettings | None = None,
    hotwords: Sequence[str] = (),
) -> Decoder:
    """A greedy decoder; with ``beam`` or hotwords, a beam search.

    Raises:
        ConfigError: there is nothing to read the language model with, a hotword cannot be written,
            or one of the settings is of another kind.
        ModelError: the language model cannot be read.
    """
    if not isinstance(beam, BeamSettings | None):
        raise ConfigError(f"got beam={beam!r}, expected BeamSettings, 'greedy' or None")
    if isinstance(hotwords, str):
        raise ConfigError(
            f"got hotwords={hotwords!r}, expected several texts: hotwords=[{hotwords!r}]"
        )
    blank = [hotword for hotword in hotwords if not (isinstance(hotword, str) and hotword.strip())]
    if blank:
        raise ConfigError(f"the hotword {blank[0]!r} is no word; leave it out")
    if beam is None and not hotwords:
        return GreedyDecoder(vocabulary, frame_seconds)
    from rdsdk.decoding.beam import BeamDecoder
    from rdsdk.decoding.search import shared_search

    return BeamDecoder(shared_search(vocabulary, beam or BeamSettings(), hotwords), frame_seconds)
