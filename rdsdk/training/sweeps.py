"""Sweeps: the same recipe in several variants, each a run in its own folder, a table at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from rdsdk.errors import ConfigError
from rdsdk.training.resuming import INTERRUPTED, RESUME_FILE

# The experiments of arXiv 2305.11685, section 4, by what they vary; {variant: arguments}.
SWEEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "reuse": {
        name: (f"--student.reuse={name}", "--student.reinvest=true") for name in ("2by6", "3by4")
    },
    "mask-ratio": {f"{r}": (f"--masking.ratio=[{r}]",) for r in (0.4, 0.6, 0.8)},
    "reinvestment": {
        "reinvested": ("--student.reinvest=true",),
        "saved": ("--student.reinvest=false",),
    },
    "frames": {name: (f"--objective.frames={name}",) for name in ("both", "masked", "unmasked")},
    "reused-map": {
        "as-paper": ("--student.reused_map=as_is",),
        "as-released": ("--student.reused_map=softmax_again",),
        "none": ("--student.reuse=none", "--student.reinvest=true"),
    },
}


@dataclass(frozen=True)
class Variant:
    """One run of a sweep."""

    name: str
    arguments: tuple[str, ...]
    output: Path


def variants(sweep: str, output: Path) -> list[Variant]:
    """The runs of a sweep: a name of ``SWEEPS``, or ``key=value,value,...``.

    Raises:
        ConfigError: it is neither; the message lists the names.
    """
    key, equals, values = sweep.partition("=")
    if sweep in SWEEPS:
        chosen = SWEEPS[sweep]
    elif equals and key and all(values.split(",")):
        chosen = {value: (f"--{key}={value}",) for value in values.split(",")}
    else:
        raise ConfigError(
            f"unknown sweep {sweep!r}; use one of {', '.join(SWEEPS)}, or key=value,value,... as "
            "in seed=0,1,2"
        )
    folder = output / f"sweep-{key}"
    return [Variant(name, given, folder / name) for name, given in chosen.items()]


def run_sweep(arguments: Sequence[str], chosen: Sequence[Variant], resume: bool) -> int:
    """Run each variant as ``rdsdk distill`` in a process of its own, one after the other.

    ``arguments`` are those of the command without --sweep and --resume. With ``resume`` finished
    variants are left as they are and an unfinished one goes on. Ends at the first that fails.

    Returns:
        0, or the exit code of the run that failed or was interrupted.
    """
    for variant in chosen:
        unfinished = (variant.output / RESUME_FILE).is_file()
        if resume and not unfinished and (variant.output / "last").is_dir():
            continue
        print(f"== {variant.name}: {variant.output}", flush=True)
        command = [
            *(sys.executable, "-m", "rdsdk.cli", "distill", *arguments, *variant.arguments),
            *(f"--output={variant.output}", *(["--resume"] if resume and unfinished else [])),
        ]
        began = time.monotonic()
        code = _wait(subprocess.Popen(command))
        if code:
            print(f"variant {variant.name} ended with exit code {code}")
            if code == INTERRUPTED:
                print("the same command with --resume goes on")
            return code
        _note(variant, time.monotonic() - began)
    return 0


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; Ctrl-C and SIGTERM are the child's to answer, which ends its run in order."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {
        # A terminal's Ctrl-C reaches the child by itself.
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(variant: Variant, seconds: float) -> None:
    if os.environ.get("RANK", "0") == "0":
        (variant.output / "seconds.json").write_text(json.dumps(round(seconds, 1)))


def outcome(variant: Variant) -> dict[str, Any]:
    """What a finished run left: its validations' last and best figures."""
    log = variant.output / "dev.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    if not rows:
        return {"name": variant.name}
    last = max((key for key in rows[-1] if key.startswith("dev/similarity")), default=None)
    seconds = variant.output / "seconds.json"
    return {
        "name": variant.name,
        "steps": rows[-1]["step"],
        "best": min(row["dev/loss"] for row in rows),
        "last": rows[-1]["dev/loss"],
        "similarity": rows[-1][last] if last else None,
        "seconds": json.loads(seconds.read_text()) if seconds.is_file() else None,
    }


def table(sweep: str, chosen: Sequence[Variant]) -> Table:
    """Of each variant: its last step, losses on dev, last layer's similarity, seconds."""
    made = Table(sweep, "steps", "best dev loss", "last dev loss", "similarity, last layer", "s")
    for variant in chosen:
        found = outcome(variant)
        cells = [found.get(name) for name in ("steps", "best", "last", "similarity", "seconds")]
        made.add_row(variant.name, *("-" if cell is None else f"{cell:g}" for cell in cells))
    return made
