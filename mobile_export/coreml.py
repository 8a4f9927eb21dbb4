"""A checkpoint -> a Core ML ``.mlpackage``, kept only when it does what the checkpoint does.

A package holds ``forward`` (whole recordings, iOS 17), ``step`` (one chunk, with Core ML states,
iOS 18), or both with one copy of the weights (iOS 18). It is made and proven on Linux as on macOS;
only on macOS it runs in Core ML itself too.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from mobile_export import coreml_programs
from mobile_export.convolutions import with_convolutions
from mobile_export.coreml_card import describe, package_card, read_card
from mobile_export.coreml_conversion import (
    EXPERIMENTAL,
    convert,
    coremltools,
    require_precision,
    trace,
)
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_package import ios_version, replace_package, size_bytes, write_package
from mobile_export.coreml_predict import in_core_ml
from mobile_export.coreml_programs import STEP, WAVEFORM, Function
from mobile_export.coreml_verify import (
    MINIMUM_SNR_DB,
    NEARNESS,
    PackageAgreement,
    Proof,
    function_names,
    prove,
    require_architecture,
)
from mobile_export.programs import card_faults, folded
from mobile_export.report import require_place
from mobile_export.vectors import Step
from mobile_export.verify import for_its_latency
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import EncoderConfig
from rdsdk.models.energies import constant_values
from rdsdk.models.student import Student

SUFFIX = ".mlpackage"
_BITS = {"fp32": 32, "fp16": 16, "int8": 8, "palette6": 6, "palette4": 4}


@dataclass(frozen=True)
class ExportedPackage:
    """A package that was written; ``report`` is a JSON value with all figures of its proof."""

    path: Path
    size_bytes: int
    card: dict[str, Any]
    report: dict[str, Any]


def export_coreml(
    checkpoint: Checkpoint,
    path: Path | str,
    precision: str = "int8",
    name: str | None = None,
    measured: dict[str, Any] | None = None,
    *,
    functions: Sequence[str] | None = None,
    lengths_seconds: Sequence[float] = (),
) -> ExportedPackage:
    """Write ``path`` if, and only if, the saved package agrees with the checkpoint.

    Args:
        checkpoint: a streaming or a full-context student.
        path: a name that ends in ``.mlpackage``, in a folder that is there.
        precision: one of ``coreml_conversion.PRECISIONS``; palettes are experimental.
        name: the model's name in its card; by default the package's.
        measured: figures for the card.
        functions: some of ``forward`` and ``step``; by default all that the student has.
        lengths_seconds: the lengths that ``forward`` takes (see ``coreml_programs.functions``); by
            default any from 0.25 to 30 s.

    Raises:
        ExportError: something cannot be exported so, coremltools is missing or fails, or the
            package does not do what the checkpoint does; nothing is left at ``path`` then, and what
            was there before is untouched.
    """
    path = Path(path)
    require_place(path, SUFFIX)
    require_precision(precision)
    coremltools()
    wanted = coreml_programs.functions(convertible(checkpoint), functions, lengths_seconds)
    ios = ios_version(wanted)
    author = str(checkpoint.provenance.get("author", "unknown"))
    card = package_card(checkpoint, wanted, name or path.stem, precision, ios, measured)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        traces = {key: trace(function) for key, function in wanted.items()}
        models = {key: convert(wanted[key], traces[key], precision, ios) for key in wanted}
        candidate = write_package(models, Path(folder) / path.name, card, author)
        del models
        report = _report(checkpoint, candidate, wanted, traces, Path(folder))
        require_passed(report, path)
        card["verification"] = summary(report)
        describe(candidate, card, author)
        report["file"]["bytes"] = size_bytes(candidate)
        replace_package(candidate, path)
    return ExportedPackage(path, size_bytes(path), card, report)


def verify_package(checkpoint: Checkpoint, path: Path | str) -> dict[str, Any]:
    """Prove a package again, from its file and the checkpoint alone; the report.

    Raises:
        ModelError: it cannot be read or run.
        ExportError: it was made from another architecture or does not do what the checkpoint does.
    """
    report = examine_package(checkpoint, path)
    require_passed(report, Path(path))
    return report


def examine_package(checkpoint: Checkpoint, path: Path | str) -> dict[str, Any]:
    """The same, with what is wrong among the report's ``faults``."""
    path = Path(path)
    card = read_card(path)
    checkpoint = for_its_latency(checkpoint, EncoderConfig.from_dict(card["architecture"]))
    lengths = card["package"]["lengths"].get(coreml_programs.FORWARD, [])
    rate = card["sample_rate"]
    student = reference(checkpoint)
    require_architecture(card, student, path)
    wanted = coreml_programs.functions(
        convertible(checkpoint), list(card["methods"]), [samples / rate for samples in lengths]
    )
    with tempfile.TemporaryDirectory(prefix="rdsdk-") as folder:
        return _report(checkpoint, path, wanted, None, Path(folder))


def package_step(path: Path | str) -> Step:
    """The step of a streaming package in the interpreter, as kits and their vectors take it.

    (waveform (S,) of one chunk, state; None is fresh) -> (log_probs (T, V), state).

    Raises:
        ModelError: the package cannot be read.
        ExportError: it has no step, or gives no text.
    """
    interpreter = Interpreter(path)
    names = function_names(interpreter, read_card(path))
    if STEP not in names:
        raise ExportError(
            f"{path} holds {sorted(names)}, no step; export a streaming student with it"
        )
    if "log_probs" not in interpreter.functions[names[STEP]].outputs:
        raise ExportError(f"{path} gives no log_probs; export a student with a CTC head")

    def step(waveform: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        inputs = {WAVEFORM: torch.from_numpy(np.asarray(waveform, np.float32))[None]}
        outputs, following = interpreter.run(names[STEP], inputs, state)
        return outputs["log_probs"][0].numpy(), following

    return step


def reference(checkpoint: Checkpoint) -> Student:
    """The checkpoint's student as packages are compared with it: a copy, weight norm folded."""
    return folded(checkpoint.student.copy().requires_grad_(False))


def convertible(checkpoint: Checkpoint) -> Student:
    """The same as it is converted: in convolutions that Core ML knows."""
    return with_convolutions(reference(checkpoint))


def needed_values(student: Student) -> int:
    """Parameters that an inference needs: no distillation heads, no mask embedding, and no spectra
    and filters, which are float32 in every precision."""
    named: dict[str, Tensor] = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    values = sum(
        tensor.numel()
        for key, tensor in named.items()
        if not key.startswith("projections.")
        and not key.endswith(".basis")
        and key != "encoder.mask_embedding"
    )
    return values - constant_values(student.config.mel_bands)


def _report(
    checkpoint: Checkpoint,
    path: Path,
    wanted: Mapping[str, Function],
    traces: Mapping[str, ExportedProgram] | None,
    folder: Path,
) -> dict[str, Any]:
    """Prove a package; what it must follow is converted anew into ``folder``."""
    student, card = reference(checkpoint), read_card(path)
    precision = card["precision"]
    ios = card["package"]["ios"]
    faults = card_faults(card, package_card(checkpoint, wanted, card["name"], precision, ios))
    exact: dict[str, Path] | None = None
    exact_agreement: dict[str, Any] = {}
    if precision != "fp32":
        exact = {}
        for key, function in wanted.items():
            program = trace(function) if traces is None else traces[key]
            model = convert(function, program, "fp32", ios)
            own = package_card(checkpoint, {key: function}, key, "fp32", ios)
            exact[key] = write_package({key: model}, folder / f"exact-{key}{SUFFIX}", own, "")
            proof = prove(student, exact[key])
            exact_agreement[key] = proof.agreement.to_dict()
            faults += [f"in float32, {fault}" for fault in proof.faults]
    proof = prove(student, path, exact)
    faults += proof.faults
    core_ml: dict[str, Any] = {"ran": False, "why": "refused before"}
    if not faults:
        core_ml = in_core_ml(path, card, student.config)
        faults += core_ml.pop("faults", [])
    weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    file = {
        "name": path.name,
        "bytes": size_bytes(path),
        "weight_bytes": weights.stat().st_size if weights.is_file() else 0,
    }
    whole = Proof(proof.functions, proof.agreement, faults)
    return export_report("mlpackage", precision, student, file, whole, exact_agreement, core_ml)


def export_report(
    target: str,
    precision: str,
    student: Student,
    file: Mapping[str, Any],
    proof: Proof,
    float32_agreement: Mapping[str, Any],
    core_ml: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was found about an artefact, a JSON value.

    ``float32_agreement`` is that of the float32 programs which the artefact had to follow.
    """
    floor = needed_values(student) * _BITS[precision] // 8 + 4 * constant_values(
        student.config.mel_bands
    )
    return {
        "format": "rdsdk-export-report",
        "version": 1,
        "verdict": "refused" if proof.faults else "passed",
        "faults": proof.faults,
        "target": target,
        "precision": precision,
        "experimental": precision in EXPERIMENTAL,
        "file": {
            **file,
            "floor_bytes": floor,
            "file_to_floor": round(file["bytes"] / floor, 4),
        },
        "thresholds": {
            "minimum_snr_db": MINIMUM_SNR_DB[precision],
            "weights": {
                key: limit
                for key, limit in asdict(NEARNESS[precision]).items()
                if math.isfinite(limit)
            },
        },
        "methods": proof.functions,
        "agreement": _agreement(proof.agreement),
        "float32_agreement": dict(float32_agreement),
        "core_ml": dict(core_ml),
        "versions": {key: version(key) for key in ("rdsdk", "coremltools", "torch")},
    }


def _agreement(agreement: PackageAgreement) -> dict[str, Any] | None:
    return agreement.to_dict() if agreement.calls else None


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report goes into the card."""
    agreement = report["agreement"]
    return {
        "verdict": report["verdict"],
        "calls": agreement["calls"],
        "worst_snr_db": agreement["worst_snr_db"],
        "same_symbol": agreement["same_symbol"],
        "file_to_floor": report["file"]["file_to_floor"],
        "ran_in_core_ml": report["core_ml"]["ran"],
    }


def require_passed(report: Mapping[str, Any], path: Path) -> None:
    """Do nothing if nothing was found at fault.

    Raises:
        ExportError: something is; says all of it.
    """
    if report["faults"]:
        raise ExportError(
            f"{path} does not do what its checkpoint does: " + "; ".join(report["faults"])
        )
