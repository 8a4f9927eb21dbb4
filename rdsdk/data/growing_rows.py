"""Rows of a JSONL file that a long run adds to, line by line, and goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rows_so_far(path: Path) -> list[dict[str, Any]]:
    """The rows that are there, none if the file is not; half a line at its end is taken off.

    Raises:
        json.JSONDecodeError: a whole line is not JSON.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # The last line of a run that was killed may be half a line.
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]
