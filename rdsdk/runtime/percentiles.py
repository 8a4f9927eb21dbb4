"""How long something takes, told by percentiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds; NaN of nothing."""
    if not len(seconds):
        return dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), float("nan"))
    p50, p95, p99 = np.percentile(np.array(seconds) * 1000, (50, 95, 99))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
