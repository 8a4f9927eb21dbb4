"""What is going on, for exports that take minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with a short line when a stage begins."""


def silent(stage: str) -> None:
    """Say nothing."""


def to_stderr(stage: str) -> None:
    """A line on the error stream, so that the output stays clean."""
    print(f"rdsdk: {stage} ...", file=sys.stderr, flush=True)
