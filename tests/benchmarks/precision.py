"""What each precision costs and gives: file size, agreement, word errors, time, what stays outside.

``python -m tests.benchmarks.precision [--checkpoint FOLDER | --model NAME] [--manifest FILE]``.
Every precision is exported (some minutes each), run on real speech beside the float32 file, turn
and turn about in one process of its own each on one thread, and once more with ExecuTorch's event
trace, which says how much of a run is not in a delegate. A model by name has random weights, whose
agreement says little; a checkpoint with a manifest gets its word error rate too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from mobile_export import verify
from mobile_export.executorch import export
from mobile_export.quantize import PRECISIONS
from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.evaluation.transcribers import joined, load_word_transcriber
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime import executorch
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.program import Program
from tests.benchmarks.contenders import Contender, Waiting, waveform_of
from tests.benchmarks.shapes import SHAPES
from tests.benchmarks.shapes import checkpoint as random_checkpoint

SECONDS = 10.24


@dataclass(frozen=True)
class Row:
    """One precision. ``times_as_fast`` is the median over rounds of float32's time over its own."""

    precision: str
    megabytes: float
    snr_db: float
    wer: float | None
    times_as_fast: float
    outside_share: float
    peak_mb: float | None


def samples_of(path: Path, seconds: float) -> int:
    """Samples of about so much sound that one call of ``forward`` takes."""
    card = Program(path).card
    if card.context is None:
        return round(seconds * card.sample_rate)
    overlap = card.overlap_samples
    most = (card.methods["forward"].max_samples - overlap) // card.chunk_samples
    chunks = min(most, max(1, round(seconds * card.sample_rate / card.chunk_samples)))
    return chunks * card.chunk_samples + overlap


def outside_share(path: Path, waveform: np.ndarray) -> float:
    """The part of the time of ``forward`` that is in no delegate, by ExecuTorch's event trace."""
    from executorch.devtools import Inspector

    card = Program(path).card
    state = [np.zeros(shape, np.float32) for shape in card.state.values()]
    inputs = [torch.from_numpy(array) for array in (waveform[None].copy(), *state)]
    data = read_artefact(path)
    with executorch.quiet():
        module = executorch.binding()._load_for_executorch_from_buffer(data, enable_etdump=True)
    for _ in range(3):
        module.run_method("forward", inputs)
    with tempfile.TemporaryDirectory() as folder:
        trace = str(Path(folder) / "trace.etdump")
        module.write_etdump_result_to_file(trace)
        events = [e for block in Inspector(etdump_path=trace).event_blocks for e in block.events]
    spent = {"execute": 0.0, "delegated": 0.0}
    for event in events:
        if event.perf_data is not None and event.name in ("Method::execute", "DELEGATE_CALL"):
            kind = "execute" if event.name == "Method::execute" else "delegated"
            spent[kind] += sum(event.perf_data.raw)
    return 1 - spent["delegated"] / spent["execute"]


def word_error_rate(model: Path, manifest: Path) -> float:
    """Of an artefact or a checkpoint on a manifest."""
    transcribe = load_word_transcriber(str(model), threads=1)
    cuts = list(read_cuts(manifest))
    heard = [joined(transcribe(load_waveform(cut))) for cut in cuts]
    return error_rates([transcript(cut) for cut in cuts], heard).wer


def measure(
    source: Checkpoint,
    folder: Path,
    precisions: list[str],
    manifest: Path | None,
    seconds: float,
    rounds: int,
) -> list[Row]:
    """Export each precision into ``folder`` unless it is there, and compare them."""
    paths = {name: folder / f"{name}.pte" for name in precisions}
    lenient = dict.fromkeys((n for n in verify.MINIMUM_SNR_DB if n != "fp32"), 0.0)
    for name, path in paths.items():
        if not path.is_file():
            print(f"exporting {name}", file=sys.stderr, flush=True)
            with patch.dict(verify.MINIMUM_SNR_DB, lenient):
                export(source, path, name)
    samples = samples_of(paths[precisions[0]], seconds)
    waveform = waveform_of(samples)
    with torch.no_grad():
        expected = source.student(torch.from_numpy(waveform)[None])[0].hidden[-1][0].numpy()
    waiting = {
        name: Waiting(Contender(name, ".pte int8", str(path)), 1, samples, folder)
        for name, path in paths.items()
    }
    try:
        took = {name: list[float]() for name in precisions}
        for _ in range(rounds):
            for name, contender in waiting.items():
                took[name].append(statistics.median(contender.turn(seconds / 20)["passes"]))
        return [
            Row(
                name,
                path.stat().st_size / 1e6,
                verify.snr_db(expected, waiting[name].hidden),
                None if manifest is None else word_error_rate(path, manifest),
                statistics.median(
                    a / b for a, b in zip(took[precisions[0]], took[name], strict=True)
                ),
                outside_share(path, waveform),
                waiting[name].peak_mb,
            )
            for name, path in paths.items()
        ]
    finally:
        for contender in waiting.values():
            contender.stop()


def table(rows: list[Row], first: str) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| precision | MB | SNR dB | WER | times as fast as {first} | outside | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        wer = "-" if row.wer is None else f"{100 * row.wer:.1f} %"
        peak = "-" if row.peak_mb is None else f"{row.peak_mb:.0f}"
        lines.append(
            f"| {row.precision} | {row.megabytes:.1f} | {row.snr_db:.1f} | {wer} | "
            f"{row.times_as_fast:.2f} | {100 * row.outside_share:.0f} % | {peak} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What each precision costs and gives.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="a folder with model.json")
    which.add_argument("--model", choices=sorted(SHAPES), default="ARMHuBERT-S")
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS)
    )
    parser.add_argument("--manifest", type=Path, help="count word errors on it too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of speech in one run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="keep the files here, and take what is there")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    source = (
        random_checkpoint(options.model)
        if options.checkpoint is None
        else checkpoint.load(options.checkpoint)
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = measure(
            source,
            folder,
            options.precisions,
            options.manifest,
            options.seconds,
            options.rounds,
        )
    print(table(rows, options.precisions[0]))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
