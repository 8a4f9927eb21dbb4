"""Which utterances can be trained on, said once and counted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Literal

from lhotse import CutSet
from lhotse.cut import Cut

from rdsdk.data.batch import frame_count, frames_needed, token_ids
from rdsdk.data.manifest import SAMPLE_RATE
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

Unencodable = Literal["error", "drop"]


class Usable:
    """The cuts that can be trained on; told apart anew on each iteration, for lazy sources.

    Left out, with one warning that counts them: utterances longer than ``longest_seconds``, those
    whose tokens need more frames than there are under CTC, and with ``unencodable="drop"`` those
    with characters outside the vocabulary.

    Raises:
        DataError: while iterating: a transcript is absent (without ``unlabelled``) or (with
            ``unencodable="error"``) cannot be encoded, or nothing is left.
    """

    def __init__(
        self,
        cuts: CutSet,
        vocabulary: Vocabulary | None,
        unencodable: Unencodable = "error",
        longest_seconds: float = math.inf,
        unlabelled: bool = False,
    ) -> None:
        if unencodable not in ("error", "drop"):
            raise ConfigError(f'unencodable must be "error" or "drop", got {unencodable!r}')
        if not longest_seconds > 0:
            raise ConfigError(f"longest_seconds must be positive, got {longest_seconds}")
        self._cuts, self._vocabulary = cuts, vocabulary
        self._unencodable, self._longest_seconds = unencodable, longest_seconds
        self._unlabelled = unlabelled
        self._warned = False

    def __iter__(self) -> Iterator[Cut]:
        kept = 0
        left_out = {"too short for their text": 0, "too long": 0, "not in the vocabulary": 0}
        for cut in self._cuts:
            reason = self._reason(cut)
            if reason is None:
                kept += 1
                yield cut
            else:
                left_out[reason] += 1
        total = kept + sum(left_out.values())
        counted = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        if not kept:
            raise DataError(
                f"none of {total} utterances can be trained on ({counted or 'the source is empty'})"
            )
        if counted and not self._warned:
            self._warned = True
            warnings.warn(f"{total - kept} of {total} utterances left out: {counted}", stacklevel=2)

    def _reason(self, cut: Cut) -> str | None:
        """Why a cut is left out, None if it is kept."""
        if cut.duration > self._longest_seconds:
            return "too long"
        try:
            tokens = token_ids(cut, self._vocabulary, self._unlabelled)
        except ConfigError as error:
            if self._unencodable == "drop":
                return "not in the vocabulary"
            raise DataError(
                f"the text of {cut.id} cannot be written with the vocabulary: {error}; mend the "
                'text, or drop such utterances with unencodable="drop"'
            ) from error
        if frame_count(round(cut.duration * SAMPLE_RATE)) < max(1, frames_needed(tokens)):
            return "too short for their text"
        return None
