"""Offline speed of an int8 artefact beside torch eager float32 of the same model.

``python -m tests.benchmarks.offline [--preset NAME] [--json FILE]``. Every contender runs in a
process of its own on one thread, over the same recordings, turn and turn about; the table gives the
median real-time factor (processing time over audio time), the size and the peak memory. Without a
preset it takes the bundled digits model and its checkpoint; a preset is measured with random
weights, exported on the spot, which takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rdsdk.pretrained
from rdsdk.audio import files
from rdsdk.runtime.machine import peak_resident_mb

ROOT = Path(__file__).parents[2]
RECORDINGS = sorted((ROOT / "tests" / "assets").glob("*/*.flac"))
PRETRAINED = Path(rdsdk.pretrained.__path__[0])
SECONDS = 20.0


def recordings() -> np.ndarray:
    """About 20 s of real recordings, repeated as needed, as one waveform of whole chunks."""
    joined = np.concatenate([files.read(path) for path in RECORDINGS])
    return np.resize(joined, int(SECONDS * 16_000))


def contender(kind: str, model: Path, repeats: int) -> dict[str, float]:
    """Runs in its own process: load, warm up, time ``repeats`` passes; report on stdout."""
    waveform = recordings()
    started = time.perf_counter()
    if kind == "eager":
        import torch

        from rdsdk.models import checkpoint

        torch.set_num_threads(1)
        student = checkpoint.load(model).student

        def run() -> None:
            # The same stretches as the artefact is given, so that neither has shorter attention.
            with torch.no_grad():
                state = None
                for start in range(0, len(waveform) - 80, STRETCH):
                    block = torch.from_numpy(waveform[start : start + STRETCH + 80])[None]
                    if block.shape[1] >= 400:
                        _, following = student(block, state)
                        state = following if student.config.context else None
    else:
        import rdsdk

        recognizer = rdsdk.load(model, threads=1)

        def run() -> None:
            recognizer.features((waveform, 16_000))

    run()
    load_seconds = time.perf_counter() - started
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return {
        "real_time_factor": statistics.median(times) / SECONDS,
        "load_and_first_seconds": load_seconds,
        "peak_mb": peak_resident_mb() or float("nan"),
    }


STRETCH = 320 * 16 * 16
"""Samples of one call: 5.12 s, what the runtime hands to the program at once."""


def measure(kind: str, model: Path, repeats: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.offline"]
    done = subprocess.run(
        [*command, "--contender", kind, "--model", str(model), "--repeats", str(repeats)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def size_mb(model: Path) -> float:
    path = model / "model.safetensors" if model.is_dir() else model
    return path.stat().st_size / 1e6


def prepare(preset_name: str | None, folder: Path) -> tuple[str, Path, dict[str, Path]]:
    """The model's name, its checkpoint, and its artefacts by precision."""
    if preset_name is None:
        return "digits", PRETRAINED / "digits", {"int8": PRETRAINED / "digits.pte"}
    import torch

    from mobile_export.executorch import export
    from rdsdk.decoding.vocabulary import Vocabulary
    from rdsdk.models import checkpoint
    from rdsdk.models.config import Context, preset
    from rdsdk.models.student import Student

    torch.manual_seed(0)
    vocabulary = Vocabulary.characters()
    config = preset(preset_name)
    config = config if config.context else config.streaming(Context(16, 128))
    made = checkpoint.Checkpoint(Student(config, len(vocabulary)).eval(), vocabulary)
    source = checkpoint.save(folder / "checkpoint", made)
    artefacts = {}
    for precision in ("fp32", "int8"):
        print(f"exporting {preset_name} {precision} ...", file=sys.stderr, flush=True)
        artefacts[precision] = export(made, folder / f"{precision}.pte", precision).path
    return f"{preset_name} (random weights, streaming)", source, artefacts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", help="measure a preset with random weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--contender", choices=("eager", "pte"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(contender(options.contender, options.model, options.repeats)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        name, source, artefacts = prepare(options.preset, Path(folder))
        contenders = {"torch eager fp32": ("eager", source)}
        contenders |= {f"ExecuTorch {p}": ("pte", path) for p, path in artefacts.items()}
        runs: dict[str, list[dict[str, float]]] = {label: [] for label in contenders}
        for turn in range(options.rounds):
            for label, (kind, model) in contenders.items():
                print(f"round {turn + 1}: {label}", file=sys.stderr, flush=True)
                runs[label].append(measure(kind, model, options.repeats))
        figures = {
            label: {
                **{key: statistics.median(run[key] for run in those) for key in those[0]},
                "size_mb": size_mb(contenders[label][1]),
            }
            for label, those in runs.items()
        }
    print_table(name, figures)
    if options.json:
        options.json.write_text(json.dumps({"model": name, "figures": figures}, indent=1) + "\n")
    return 0


def print_table(name: str, figures: dict[str, dict[str, float]]) -> None:
    base = figures["torch eager fp32"]["real_time_factor"]
    print(f"{name}: {SECONDS:.0f} s of recordings, one thread\n")
    print("| | file MB | real-time factor | times as fast as eager | peak memory MB |")
    print("|---|---|---|---|---|")
    for label, row in figures.items():
        print(
            f"| {label} | {row['size_mb']:.1f} | {row['real_time_factor']:.4f} "
            f"| {base / row['real_time_factor']:.1f} | {row['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
