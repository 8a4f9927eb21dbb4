"""Long utterances cut into pieces, between one symbol and the next.

Attention takes time with the square of the length, and a sequence loss a step a frame whatever the
batch: short pieces of one length fill a batch better. Context across a cut is lost to learning.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from lhotse import CutSet, SupervisionSegment
from lhotse.cut import Cut, MonoCut
from lhotse.supervision import AlignmentItem

from rdsdk.data.alignment import SYMBOLS, is_aligned
from rdsdk.errors import ConfigError


def in_pieces(cuts: CutSet, longest_seconds: float) -> CutSet:
    """Aligned utterances in pieces of about ``longest_seconds`` at most, equal ones of each.

    Left whole are utterances without an alignment, and those whose text is not its symbols in a
    row, as it could not be told which piece says what. A piece is called ``ID#1``.

    Raises:
        ConfigError: ``longest_seconds`` is not above zero.
    """
    if not longest_seconds > 0:
        raise ConfigError(f"pieces of {longest_seconds} seconds are asked for, expected above 0")
    return CutSet.from_cuts(piece for cut in cuts for piece in _pieces(cut, longest_seconds))


def _pieces(cut: Cut, longest_seconds: float) -> list[Cut]:
    count = math.ceil(cut.duration / longest_seconds)
    if count == 1 or not isinstance(cut, MonoCut) or len(cut.supervisions) != 1:
        return [cut]
    (spoken,) = cut.supervisions
    if not is_aligned(cut) or not (items := (spoken.alignment or {})[SYMBOLS]):
        return [cut]
    if (spoken.text or "").split() != [item.symbol for item in items]:
        return [cut]
    starts = [item.start for item in items]
    ideal = [cut.duration * number / count for number in range(1, count)]
    near = {starts[int(np.abs(np.array(starts) - at).argmin())] for at in ideal}
    edges = [0.0, *sorted(near - {0.0}), cut.duration]
    return [
        _piece(cut, spoken, items, number, first, end)
        for number, (first, end) in enumerate(itertools.pairwise(edges), 1)
    ]


def _piece(
    cut: MonoCut,
    spoken: SupervisionSegment,
    items: list[AlignmentItem],
    number: int,
    first: float,
    end: float,
) -> Cut:
    inside = [item for item in items if first <= item.start < end]
    name = f"{cut.id}#{number}"
    piece = cut.truncate(offset=first, duration=end - first, keep_excessive_supervisions=False)
    piece.id = name
    piece.supervisions = [
        SupervisionSegment(
            id=name,
            recording_id=spoken.recording_id,
            start=0.0,
            duration=piece.duration,
            text=" ".join(item.symbol for item in inside),
            speaker=spoken.speaker,
            alignment={SYMBOLS: [item.with_offset(-first) for item in inside]},
        )
    ]
    return piece
