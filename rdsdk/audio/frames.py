"""How many frames a stream makes of so many samples: one rule for the runtime, evaluations of
checkpoints and test vectors. A full-context model shares the first half of it, where a recording is
shorter than what it takes."""

from __future__ import annotations

TAIL_FRAMES = 10
"""Of silence heard after the end: a CTC symbol may come a little later than its sound."""


def recording_frames(samples: int, hop_samples: int, overlap_samples: int) -> int:
    """Frames that hold a real sample, one at least: every sample lies in some frame, and a frame
    shares ``overlap_samples`` with the next."""
    return max(1, -(-(samples - overlap_samples) // hop_samples))


def streamed_frames(samples: int, hop_samples: int, overlap_samples: int) -> int:
    """Frames that a stream hears: those, and ``TAIL_FRAMES``."""
    return recording_frames(samples, hop_samples, overlap_samples) + TAIL_FRAMES
