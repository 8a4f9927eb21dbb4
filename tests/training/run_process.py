"""Training commands in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


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


def finish_pair(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script in two processes under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", script]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            # A process that aborts says where.
            "PYTHONFAULTHANDLER": "1",
        },
    )


def died_natively(said: str) -> bool:
    """Whether torchrun found that a process was first ended by its own SIGABRT or SIGSEGV."""
    first = said.partition("Root Cause")[2]
    return re.search(r"exitcode\s*: -(6|11)\b", first) is not None
