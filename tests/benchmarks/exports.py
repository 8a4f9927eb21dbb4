"""The files that the comparison runs: ONNX and ``.pte`` of each model, made once.

``python -m tests.benchmarks.exports KIND MODEL PATH`` makes one, in a process of its own because
lowering a large model takes gigabytes. A file is made again when the code that makes it changes, or
torch, ExecuTorch, torchao or ONNX do: that is in its name.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
KINDS = {
    "onnx-fp32": ".onnx",
    "onnx-int8": ".onnx",
    "pte-fp32": ".pte",
    "pte-int8": ".pte",
    "pte-int8-streaming": ".pte",
}
_HERE = ("tests/benchmarks/shapes.py", "tests/benchmarks/exports.py")
_SOURCES = {
    "onnx": ("rdsdk/models", "tests/models/hubert_shape.py", *_HERE),
    "pte": ("rdsdk/models", "mobile_export", "tests/models/hubert_shape.py", *_HERE),
}
_PACKAGES = {
    "onnx": ("torch", "onnx", "onnxruntime", "onnxscript", "transformers"),
    "pte": ("torch", "executorch", "torchao"),
}


def file_of(folder: Path, kind: str, model: str) -> Path:
    """Where a file lies, whether it was made or not."""
    return folder / f"{_stem(kind, model)}.{_key(kind)}{KINDS[kind]}"


def _stem(kind: str, model: str) -> str:
    return f"{model.lower().replace(' ', '-')}.{kind}"


def _key(kind: str) -> str:
    family = kind.partition("-")[0]
    digest = hashlib.sha256()
    for source in _SOURCES[family]:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    for name in _PACKAGES[family]:
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()[:12]


def make_all(
    folder: Path,
    wanted: Iterable[tuple[str, str]],
    jobs: int,
    on_file: Callable[[str, str], None],
) -> None:
    """Make what is missing of (kind, model), ``jobs`` at a time; ``on_file`` hears of each one.

    Raises:
        SystemExit: one could not be made; says what its process said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The int8 ONNX files are made from the others.
    wanted = sorted(set(wanted), key=lambda each: each[0] == "onnx-int8")
    missing = [each for each in wanted if not file_of(folder, *each).is_file()]

    def make(each: tuple[str, str]) -> tuple[tuple[str, str], subprocess.CompletedProcess[str]]:
        command = [sys.executable, "-m", "tests.benchmarks.exports", *each, str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        return each, done

    for batch in ([e for e in missing if e[0] != "onnx-int8"], missing):
        batch = [each for each in batch if not file_of(folder, *each).is_file()]
        with ThreadPoolExecutor(jobs) as pool:
            for each, done in pool.map(make, batch):
                if done.returncode:
                    pool.shutdown(cancel_futures=True)
                    raise SystemExit(f"{' of '.join(each)} was not made:\n{done.stderr}")
                on_file(*each)


def make(kind: str, model: str, path: Path) -> None:
    """Make one file at ``path``."""
    if kind == "onnx-fp32":
        _onnx(model, path)
    elif kind == "onnx-int8":
        _onnx_int8(file_of(path.parent, "onnx-fp32", model), path)
    else:
        from mobile_export.executorch import export
        from mobile_export.verify import MINIMUM_SNR_DB
        from tests.benchmarks.shapes import checkpoint

        # Random weights may round worse than trained ones; how well is among the figures.
        rounded = {name: 0.0 for name in MINIMUM_SNR_DB if name != "fp32"}
        with patch.dict(MINIMUM_SNR_DB, rounded):
            export(checkpoint(model, kind.endswith("streaming")), path, kind.split("-")[1], model)


def _onnx(model: str, path: Path) -> None:
    import torch

    from mobile_export.convolutions import with_convolutions
    from rdsdk.models.student import Student
    from tests.benchmarks.shapes import eager

    made = eager(model)
    if isinstance(made.model, Student):
        # As ONNX Runtime has them; products over windows are XNNPACK's spelling.
        with_convolutions(made.model)
    torch.onnx.export(
        made,
        (torch.zeros(1, 5 * 16_000),),
        path,
        dynamo=True,
        dynamic_shapes=({1: torch.export.Dim.DYNAMIC(min=4_000, max=480_000)},),
        input_names=["waveform"],
        output_names=["hidden"],
        external_data=False,
    )


def _onnx_int8(float32: Path, path: Path) -> None:
    """Dynamic int8 as ONNX Runtime's guide has it for transformers: matrix products with constant
    weights, one scale an output channel. Convolutions stay: ONNX Runtime's ConvInteger, which
    dynamic quantisation would give, is slower than its float32 convolution."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        ready = Path(scratch) / "ready.onnx"
        quant_pre_process(float32, ready, skip_symbolic_shape=True)
        quantize_dynamic(
            ready,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def main() -> int:
    kind, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    path = file_of(folder, kind, model)
    part = path.with_name(f"making-{os.getpid()}-{path.name}")
    try:
        with warnings.catch_warnings(action="ignore"):
            make(kind, model, part)
        for stale in folder.glob(f"{_stem(kind, model)}.*{KINDS[kind]}"):
            stale.unlink()
        part.replace(path)
        part.with_name(f"{part.name}.report.json").unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
