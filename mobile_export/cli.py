"""``rdsdk export CHECKPOINT -o model.pte``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_export.executorch import export
from mobile_export.quantize import PRECISIONS
from rdsdk.errors import ExportError
from rdsdk.models import checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Lower a checkpoint, prove it, keep it; 0 when the file is there."""
    parser = argparse.ArgumentParser(
        prog="rdsdk export",
        description=(
            "Lower a checkpoint to an ExecuTorch program for XNNPACK. The file is kept only if its "
            "outputs agree with the checkpoint's."
        ),
    )
    parser.add_argument("checkpoint", type=Path, help="a folder with model.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .pte to write")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="int8")
    parser.add_argument("--name", help="the model's name in its card (default: the file's)")
    parser.add_argument(
        "--measured", type=Path, help="a JSON object of figures to put into the card"
    )
    context = parser.add_argument_group("latency of a streaming student")
    context.add_argument(
        "--chunk-frames", type=int, metavar="N", help="frames of 20 ms heard at once"
    )
    context.add_argument(
        "--left-frames", type=int, metavar="N", help="frames before the chunk that it sees"
    )
    options = parser.parse_args(arguments)
    source = checkpoint.load(options.checkpoint)
    if options.chunk_frames is not None or options.left_frames is not None:
        source = checkpoint.in_context(source, options.chunk_frames, options.left_frames)
    measured = None if options.measured is None else _figures(options.measured)
    print("lowering; this takes a minute or two", file=sys.stderr, flush=True)
    made = export(source, options.output, options.precision, options.name, measured)
    print(
        f"{made.path}: {made.size_bytes / 1e6:.1f} MB, {options.precision}\n"
        f"  agrees with the checkpoint to {made.agreement.worst_snr_db:.1f} dB at worst "
        f"({made.agreement.worst}; {made.agreement.calls} calls compared)"
    )
    for method, found in made.lowered.structures.items():
        outside = ", ".join(f"{name} {count}" for name, count in found.outside.most_common(4))
        print(f"  {method}: {found.delegates} delegate calls; outside them: {outside}")
    if made.state_bytes:
        print(f"  {made.state_bytes / 1024:.0f} KiB of state a stream")
    return 0


def _figures(path: Path) -> dict[str, Any]:
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(figures, dict):
        raise ExportError(f"{path} holds {type(figures).__name__}, expected an object of figures")
    return figures
