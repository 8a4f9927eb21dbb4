"""Training commands in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def start(*arguments: str) -> subprocess.Popen[str]:
    """``rdsdk`` with these arguments, on one thread: how a sum is split among threads changes its
    last bits."""
    return subprocess.Popen(
        [sys.executable, "-m", "rdsdk.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(*arguments: str) -> tuple[int, str]:
    """The exit code and the output of a whole run."""
    process = start(*arguments)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output
