"""Students beside HuBERT Base in five runtimes, in one run on the same sound.

``python -m tests.benchmarks.comparison [--folder build/comparison] [--threads 1 2] [--figure FILE]
[--groups ARMHuBERT-S ...] [--prepare-only]``. Files are exported once into the folder
(``--prepare-only`` stops there: that needs no quiet machine, the rest does). Then, for each number
of threads and each group of models, every contender is loaded in a process of its own and they take
turns, A B C A B C ..., so that whatever else the machine does hits all alike. HuBERT Base in torch
eager is in every group, and a ratio is always of two turns of the same round: the table has the
median of the rounds, the JSON the spread. A group that was measured stays measured, as a whole,
until its files, this code or the options change, or ``--again`` is given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mobile_export.verify import snr_db
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.runtime.machine import machine, usable_cores
from rdsdk.runtime.measurement import percentiles
from tests.benchmarks.comparison_report import draw, markdown
from tests.benchmarks.contenders import CLOCKS, COMPILED, RUNTIMES, STREAMED, Contender, Waiting
from tests.benchmarks.exports import ROOT, file_of, make_all
from tests.benchmarks.shapes import FROM_TRANSFORMERS, WITH_AND_WITHOUT, sound_samples, total_macs

ANCHOR = Contender("HuBERT Base", "torch eager")
GROUPS = {"HuBERT": FROM_TRANSFORMERS, **{pair[0]: pair for pair in WITH_AND_WITHOUT}}
"""What is alive at the same time: small enough for the memory of a small machine."""
PACKAGES = ("rdsdk", "torch", "executorch", "torchao", "onnxruntime", "transformers", "numpy")
LEAST_SNR_DB = 60.0
"""Of float32 contenders against torch eager: less, and it is not the same model."""
PAUSE_SECONDS = 0.05
"""Between turns: threads that wait busily for more work have given up by then."""


def contenders_of(group: str, runtimes: Sequence[str], folder: Path) -> list[Contender]:
    """A group in every runtime that can run it, HuBERT Base in torch eager first."""
    found = [ANCHOR]
    for model in GROUPS[group]:
        for runtime in runtimes:
            # HuBERT's convolutions and norms look ahead: nothing of it streams.
            if runtime == STREAMED and model in FROM_TRANSFORMERS:
                continue
            kind = RUNTIMES[runtime]
            file = None if kind is None else str(file_of(folder, kind, model))
            each = Contender(model, runtime, file)
            found += [each] if each not in found else []
    return found


def measure(
    contenders: Sequence[Contender],
    threads: int,
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    """All turns of one group: a JSON value."""
    samples = sound_samples(options.seconds)
    seconds = samples / SAMPLE_RATE
    where = machine(PACKAGES)
    task = progress.add_task("", total=len(contenders) * (options.rounds + 1))

    def say(what: str, each: Contender) -> None:
        progress.update(task, description=f"{threads} threads, {what}: {each}", advance=1)

    alive: list[Waiting] = []
    turns: list[list[dict[str, list[float]]]] = []
    try:
        for each in contenders:
            say("loading", each)
            alive.append(Waiting(each, threads, samples, options.folder, options.clock))
        for number in range(options.rounds):
            turns.append([])
            for waiting in alive:
                say(f"round {number + 1} of {options.rounds}", waiting.contender)
                turns[-1].append(waiting.turn(options.turn_seconds))
                time.sleep(PAUSE_SECONDS)
    finally:
        for waiting in alive:
            waiting.stop()
        progress.remove_task(task)
    factors = np.array([[np.median(turn["passes"]) for turn in those] for those in turns]) / seconds
    rows = []
    for number, waiting in enumerate(alive):
        each, factor = waiting.contender, factors[:, number]
        speedup = factors[:, 0] / factor
        steps = [step for those in turns for step in those[number]["steps"]]
        rows.append(
            {
                **asdict(each),
                "file": None,
                "size_mb": Path(each.file).stat().st_size / 1e6 if each.file else None,
                "real_time_factor": float(np.median(factor)),
                "real_time_factors": factor.tolist(),
                "speedup": float(np.median(speedup)),
                "speedup_quartiles": np.percentile(speedup, (25, 75)).tolist(),
                "step": percentiles(steps) if steps else None,
                "snr_db": _agreement(waiting, alive),
                "load_seconds": waiting.load_seconds,
                "first_seconds": waiting.first_seconds,
                "peak_mb": waiting.peak_mb,
                "macs": total_macs(each.model, samples),
            }
        )
    return {
        "threads": threads,
        "sound_seconds": seconds,
        "rounds": options.rounds,
        "clock": options.clock,
        "measured_at": time.strftime("%Y-%m-%d %H:%M"),
        "machine": where,
        "load_average_after": machine(())["load_average"],
        "rows": rows,
    }


def _compile(
    contenders: Sequence[Contender], options: argparse.Namespace, progress: Progress
) -> None:
    """Let torch.compile fill its cache, which holds for a number of threads."""
    task = progress.add_task("", total=len(contenders) * len(options.threads))
    for threads in options.threads:
        for each in contenders:
            progress.update(task, description=f"compiling {each}, {threads} threads")
            Waiting(each, threads, sound_samples(options.seconds), options.folder).stop()
            progress.advance(task)


def _agreement(waiting: Waiting, alive: Sequence[Waiting]) -> float | None:
    """Decibels of what a contender computes against torch eager of the same model, if that runs."""
    each = waiting.contender
    if each.runtime in (STREAMED, "torch eager"):
        return None
    for other in alive:
        if other.contender == Contender(each.model, "torch eager"):
            ratio = float(snr_db(other.hidden, waiting.hidden))
            if "int8" not in each.runtime and ratio < LEAST_SNR_DB:
                raise SystemExit(f"{each} is not the model of torch eager: {ratio:.1f} dB")
            return ratio
    return None


def _results(group: str, threads: int, those: Sequence[Contender], o: argparse.Namespace) -> Path:
    """Where a group's figures lie: another place when anything that decides them changes."""
    numbers = (threads, o.seconds, o.rounds, o.turn_seconds, o.clock)
    plan = [group, *numbers, [asdict(each) for each in those]]
    sources = [Path(__file__).with_name(f"{name}.py") for name in ("comparison", "contenders")]
    digest = hashlib.sha256(json.dumps(plan).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return o.folder / f"{group.lower()}-{threads}-threads.{digest.hexdigest()[:12]}.json"


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "comparison", help="files and figures"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--groups", nargs="+", choices=list(GROUPS), default=[g for g in GROUPS if g != "tiny"]
    )
    parser.add_argument("--runtimes", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES))
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound in a pass")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="passes until so long")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: processor time, for one thread on a machine that is not quiet",
    )
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="exports at a time")
    parser.add_argument("--prepare-only", action="store_true", help="export, compile and stop")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--figure", type=Path, help="also draw them (svg, png)")
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != [1]:
        parser.error("--clock cpu is for --threads 1: threads that wait busily count as working")
    options.folder = options.folder.resolve()
    if COMPILED in options.runtimes and not (os.environ.get("CXX") or shutil.which("g++")):
        print(f"no C++ compiler, so no {COMPILED}", file=sys.stderr)
        options.runtimes.remove(COMPILED)
    groups = {g: contenders_of(g, options.runtimes, options.folder) for g in options.groups}
    wanted = [
        (kind, each.model)
        for those in groups.values()
        for each in those
        if (kind := RUNTIMES[each.runtime]) is not None
    ]
    # ONNX int8 is made from ONNX float32.
    wanted += [("onnx-fp32", model) for kind, model in wanted if kind == "onnx-int8"]
    measured = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("exports", total=len(set(wanted)))
        make_all(
            options.folder,
            wanted,
            options.jobs,
            lambda kind, model: progress.update(
                task, description=f"exported {kind} of {model}", advance=1
            ),
        )
        progress.update(task, description="exports", completed=len(set(wanted)))
        if options.prepare_only:
            compiled = {e for those in groups.values() for e in those if e.runtime == COMPILED}
            _compile(sorted(compiled, key=str), options, progress)
            return 0
        for threads in options.threads:
            for group, those in groups.items():
                path = _results(group, threads, those, options)
                if options.again or not path.is_file():
                    figures = {"group": group, **measure(those, threads, options, progress)}
                    path.write_text(json.dumps(figures, indent=1) + "\n")
                measured.append(json.loads(path.read_text()))
    print(markdown(measured))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.figure:
        draw(measured, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
