"""Learning rates over a run, as pure functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(
    step: int, steps: int, warmup_steps: int, floor: float = 0.02, held_steps: int = 0
) -> float:
    """The factor on the peak learning rate: linear warm-up, ``held_steps`` at the peak, then a
    cosine down to ``floor``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    before = warmup_steps + held_steps
    progress = min(1.0, max(0, step - before) / max(1, steps - before))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_linear(step: int, steps: int, warmup_steps: int) -> float:
    """The factor on the peak learning rate: linear warm-up, then a straight line down to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))
