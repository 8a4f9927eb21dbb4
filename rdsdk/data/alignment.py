"""When each symbol of a text is spoken: alignments in manifests, and frame targets made of them.

An alignment is a list of (symbol, start, end) in seconds, in order; what lies between is silence.
Cuts keep it where lhotse keeps alignments, so one made by another aligner is used like ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy
from torch import Tensor

from rdsdk.data.augment import Timing
from rdsdk.decoding.vocabulary import Vocabulary

SYMBOLS = "symbol"
"""The name of our alignments among a lhotse supervision's."""
PADDING = -100
"""The target of frames that hold no part of an utterance."""
HOP_SECONDS = 0.02
FRAME_CENTRE_SECONDS = 0.0125


def alignment_problem(value: object) -> str | None:
    """What is wrong with a manifest row's alignment, None if nothing is (or there is none)."""
    if value is None:
        return None
    shape = "alignment must be [[symbol, start, end], ...] in seconds and in order"
    if not isinstance(value, list):
        return f"{shape}, got {value!r}"
    last = 0.0
    for item in value:
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str)):
            return f"{shape}, got the item {item!r}"
        start, end = item[1], item[2]
        numbers = all(isinstance(n, (int, float)) and math.isfinite(n) for n in (start, end))
        if not numbers or not last - 1e-6 <= start <= end:
            return f"{shape}, got the item {item!r} after second {last}"
        last = end
    return None


def aligned_items(alignment: Sequence[tuple[str, float, float]]) -> list[AlignmentItem]:
    """An alignment as lhotse keeps it."""
    return [AlignmentItem(symbol, start, round(end - start, 6)) for symbol, start, end in alignment]


def on_own_clock(cut: Cut) -> Cut:
    """A cut of lhotse with its alignments counted from where the cut begins, as supervisions are.

    lhotse leaves them as they are of the whole recording when it cuts out a part of it.
    """
    first = cut.start if isinstance(cut, (MonoCut, MultiCut)) else 0.0
    if not first:
        return cut
    return cut.map_supervisions(
        lambda spoken: fastcopy(
            spoken,
            alignment={
                kind: [item.with_offset(-first) for item in items]
                for kind, items in (spoken.alignment or {}).items()
            }
            or None,
        )
    )


def is_aligned(cut: Cut) -> bool:
    """Whether every supervision of the cut says when its symbols are spoken."""
    return bool(cut.supervisions) and all(SYMBOLS in (s.alignment or {}) for s in cut.supervisions)


def frame_targets(cut: Cut, vocabulary: Vocabulary, frames: int, timing: Timing) -> Tensor:
    """The symbol id of each of ``frames`` frames (T,) int64, blank where nothing is spoken; all
    ``PADDING`` for a cut that is not aligned. A frame belongs to the symbol at its centre.

    Raises:
        ConfigError: a symbol is not in the vocabulary.
    """
    if not is_aligned(cut):
        return torch.full((frames,), PADDING)
    targets = torch.full((frames,), vocabulary.blank)
    for supervision in cut.supervisions:
        for symbol, start, duration, *_ in (supervision.alignment or {})[SYMBOLS]:
            (identity,) = vocabulary.encode(symbol)
            first, end = (
                max(0, math.ceil((s / timing.speed + timing.start - FRAME_CENTRE_SECONDS) * 50))
                for s in (start, start + duration)
            )
            targets[first:end] = identity
    return targets


def said_symbols(cut: Cut, vocabulary: Vocabulary) -> list[int] | None:
    """What is said one after the other, silences as blanks; None for a cut that is not aligned.

    Raises:
        ConfigError: a symbol is not in the vocabulary.
    """
    if not is_aligned(cut):
        return None
    targets = frame_targets(cut, vocabulary, int(cut.duration / HOP_SECONDS), Timing())
    said: list[int] = torch.unique_consecutive(targets).tolist()
    return said
