"""Frame targets without an aligner: the text laid in a straight line over the audible part.

CTC from random weights first learns that blank is always likely and can stay there for thousands
of steps. A few hundred steps of plain classification against this crude alignment, the "flat start"
of classical recognisers, take it past that. It suits single words; rows with several are left out.

Shapes: B batch, S samples, T frames, U tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rdsdk.data.alignment import PADDING
from rdsdk.models.config import HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES

AUDIBLE_DB = 25.0
"""How far below its loudest frame an utterance counts as audible."""


def straight_alignment(
    waveforms: Tensor,
    frame_counts: Tensor,
    tokens: Tensor,
    token_counts: Tensor,
    blank: int,
) -> Tensor:
    """Targets (B, T) int64: each token for an equal share of the audible frames, blank around.

    waveforms (B, S), frame_counts (B,), tokens (B, U), token_counts (B,); T is that of the
    waveforms. Frames beyond a row's count are ``PADDING``; a row without tokens is all blank.
    """
    power = F.avg_pool1d(
        waveforms[:, None].square(), RECEPTIVE_FIELD_SAMPLES, stride=HOP_SAMPLES
    ).squeeze(1)
    length = power.shape[1]
    index = torch.arange(length, device=waveforms.device)
    real = index < frame_counts.to(index.device)[:, None]
    power = power.masked_fill(~real, 0.0)
    loud = power >= power.amax(dim=1, keepdim=True) * 10 ** (-AUDIBLE_DB / 10)
    audible = loud & real
    first = torch.where(audible, index, length).amin(dim=1)
    last = torch.where(audible, index, -1).amax(dim=1)

    count = token_counts.to(index.device)[:, None]
    span = (last - first + 1).clamp(min=1)[:, None]
    place = (index - first[:, None]) * count // span
    inside = (place >= 0) & (place < count) & real
    padded = F.pad(tokens, (0, 1), value=blank)
    chosen = padded.gather(1, place.clamp(0, padded.shape[1] - 1))
    targets = torch.where(inside, chosen, blank)
    return targets.masked_fill(~real, PADDING)
