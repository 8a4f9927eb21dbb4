"""One model in one runtime, in a process of its own that waits for its turn.

The process loads once and then answers lines: for each number it passes over the sound until so
many seconds have gone, and says how long each pass took. So many contenders can be alive at once
and take turns, and none pays for starting anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rdsdk.audio import files
from rdsdk.runtime.machine import peak_resident_mb
from tests.benchmarks.exports import ROOT

RUNTIMES = {
    "torch eager": None,
    "torch.compile": None,
    "onnxruntime fp32": "onnx-fp32",
    "onnxruntime int8": "onnx-int8",
    ".pte fp32": "pte-fp32",
    ".pte int8": "pte-int8",
    ".pte int8 streaming": "pte-int8-streaming",
}
"""The kind of file that each runs."""
STREAMED = ".pte int8 streaming"
COMPILED = "torch.compile"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Contender:
    """A model in a runtime; ``file`` is what it runs, None where torch builds the model."""

    model: str
    runtime: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.model}, {self.runtime}"


class Pass(NamedTuple):
    """What one pass over the sound gave."""

    hidden: np.ndarray
    step_seconds: list[float]
    """Of each chunk, where it streams."""


class Waiting:
    """A contender's process, loaded, warm, and waiting.

    Attributes:
        load_seconds: until it can run: building or reading the model, not imports.
        first_seconds: of its first pass, with whatever is compiled or packed then.
        peak_mb: its peak memory after that pass.
        hidden: (T, D), what it computes.
    """

    def __init__(
        self,
        contender: Contender,
        threads: int,
        samples: int,
        folder: Path,
        clock: str = "wall",
    ) -> None:
        self.contender = contender
        result = folder / f"hidden-{os.getpid()}.npy"
        plan = {
            **asdict(contender),
            "threads": threads,
            "samples": samples,
            "result": str(result),
            "clock": clock,
        }
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        # What torch.compile made is found again, for it takes a minute.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (until stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(plan)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        ready = self._answer()
        self.load_seconds: float = ready["load_seconds"]
        self.first_seconds: float = ready["first_seconds"]
        self.peak_mb: float | None = ready["peak_mb"]
        self.hidden = np.load(result)
        result.unlink()

    def turn(self, seconds: float) -> dict[str, list[float]]:
        """Run for at least ``seconds``: seconds of each pass, and of each step if it streams."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            raise SystemExit(f"{self.contender} ended ({code}):\n{self._log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def waveform_of(samples: int) -> np.ndarray:
    """Real speech (samples,), repeated as needed."""
    recordings = sorted((ROOT / "tests" / "assets" / "speech").glob("*.flac"))
    return np.resize(np.concatenate([files.read(path) for path in recordings]), samples)


def _torch(plan: dict[str, Any], waveform: np.ndarray) -> Callable[[], Pass]:
    import torch

    from tests.benchmarks.shapes import eager

    torch.set_num_threads(plan["threads"])
    model: Any = eager(plan["model"])
    if plan["runtime"] == COMPILED:
        import torch._inductor.config

        # Weights become constants, laid out for the products they are used in.
        torch._inductor.config.freezing = True
        model = torch.compile(model)
    tensor = torch.from_numpy(waveform)[None]

    def run() -> Pass:
        with torch.no_grad():
            return Pass(model(tensor)[0].numpy(), [])

    return run


def _onnx(plan: dict[str, Any], waveform: np.ndarray) -> Callable[[], Pass]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        plan["file"], options, providers=["CPUExecutionProvider"]
    )

    def run() -> Pass:
        (hidden,) = session.run(None, {"waveform": waveform[None]})
        return Pass(hidden[0], [])

    return run


def _pte(plan: dict[str, Any], waveform: np.ndarray) -> Callable[[], Pass]:
    from rdsdk.runtime.program import Program, State

    program = Program(plan["file"], plan["threads"])
    if plan["runtime"] != STREAMED:
        return lambda: Pass(program.forward(waveform).hidden, [])
    chunk = program.card.chunk_samples
    overlap = program.card.overlap_samples

    clock = CLOCKS[plan["clock"]]

    def run() -> Pass:
        state: State | None = None
        hidden, took = [], []
        for at in range(0, len(waveform) - overlap, chunk):
            begun = clock()
            output = program.step(waveform[at : at + chunk + overlap], state)
            took.append(clock() - begun)
            hidden.append(output.hidden)
            state = output.state
        return Pass(np.concatenate(hidden), took)

    return run


def _load(plan: dict[str, Any], waveform: np.ndarray) -> Callable[[], Pass]:
    how = {"torch": _torch, "onnxruntime": _onnx, ".pte": _pte}
    family = plan["runtime"].split()[0].partition(".compile")[0]
    return how[family](plan, waveform)


def _imported(runtime: str) -> None:
    """What is imported counts as no part of loading a model."""
    if runtime.startswith("onnxruntime"):
        import onnxruntime  # noqa: F401
    elif runtime.startswith("torch"):
        import tests.benchmarks.shapes  # noqa: F401
    else:
        from rdsdk.runtime.executorch import binding

        binding()


def main() -> int:
    # Libraries print; only answers may reach the one who reads them.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    plan = json.loads(sys.argv[1])
    waveform = waveform_of(plan["samples"])
    _imported(plan["runtime"])
    begun = time.perf_counter()
    run = _load(plan, waveform)
    loaded = time.perf_counter()
    first = run()
    done = time.perf_counter()
    run()
    np.save(plan["result"], first.hidden)
    answer(
        {
            "load_seconds": loaded - begun,
            "first_seconds": done - loaded,
            "peak_mb": peak_resident_mb(),
        }
    )
    clock = CLOCKS[plan["clock"]]
    for line in sys.stdin:
        passes: list[float] = []
        steps: list[float] = []
        while sum(passes) < float(line):
            begun = clock()
            result = run()
            passes.append(clock() - begun)
            steps += result.step_seconds
        answer({"passes": passes, "steps": steps})
    return 0


if __name__ == "__main__":
    sys.exit(main())
