"""Core ML's two targets as the command line and tools see them; see ``targets``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobile_export import coreml, coreml_delegate
from mobile_export.coreml_card import describe, read_card
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_package import replace_package
from mobile_export.coreml_programs import FORWARD, SAMPLE_COUNT, STEP, WAVEFORM
from mobile_export.coreml_verify import function_names
from mobile_export.listening import LogProbs, stepped_log_probs
from mobile_export.progress import Progress, silent
from mobile_export.report import Report, report_path, require_place
from mobile_export.vectors import Step
from mobile_export.verify import compare_words, for_its_latency
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import SAMPLE_RATE, EncoderConfig
from rdsdk.models.extractor import frame_count
from rdsdk.models.state import EncoderState


@dataclass(frozen=True)
class MadeForCoreML:
    """An artefact that was written, and the report beside it."""

    path: Path
    report: Report


def export_package(
    checkpoint: Checkpoint,
    path: Path | str,
    precision: str = "int8",
    name: str | None = None,
    measured: dict[str, Any] | None = None,
    *,
    method_names: Sequence[str] | None = None,
    layers: Sequence[int] = (),
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> MadeForCoreML:
    """``coreml.export_coreml``, word error rates compared and the report written besides.

    Raises:
        ExportError: as ``export_coreml``, or too many words are lost; nothing is left then.
    """
    _without_layers(layers)

    def make(to: Path) -> coreml.ExportedPackage:
        progress("converting for Core ML and proving it, which takes minutes for a large student")
        return coreml.export_coreml(
            checkpoint, to, precision, name or Path(path).stem, measured, functions=method_names
        )

    require_place(Path(path), coreml.SUFFIX)
    return _kept(checkpoint, Path(path), make, package_log_probs, manifest, progress)


def examine_package(
    checkpoint: Checkpoint,
    path: Path | str,
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """What is found about a package; see ``coreml.verify_package``."""
    progress("proving the package beside float32 ones made anew")
    checkpoint = _of_its_latency(checkpoint, read_card(path))
    report = report_of(coreml.examine_package(checkpoint, path))
    return _with_words(report, checkpoint, package_log_probs, Path(path), manifest, progress)


def export_delegate(
    checkpoint: Checkpoint,
    path: Path | str,
    precision: str = "int8",
    name: str | None = None,
    measured: dict[str, Any] | None = None,
    *,
    method_names: Sequence[str] | None = None,
    layers: Sequence[int] = (),
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> MadeForCoreML:
    """``coreml_delegate.export_coreml_pte``, word error rates compared and the report written.

    Raises:
        ExportError: as ``export_coreml_pte``, or too many words are lost; nothing is left then.
    """
    _without_layers(layers)
    if method_names is not None and tuple(method_names) != (FORWARD,):
        raise ExportError(
            f"a .pte for Core ML's delegate has the method {FORWARD} alone (a streaming student's "
            f"takes one chunk), got {', '.join(method_names)}; leave --methods out"
        )

    def make(to: Path) -> coreml.ExportedPackage:
        progress("lowering for Core ML and proving it, which takes minutes for a large student")
        return coreml_delegate.export_coreml_pte(
            checkpoint, to, precision, name or Path(path).stem, measured
        )

    require_place(Path(path), ".pte")
    return _kept(checkpoint, Path(path), make, delegate_log_probs, manifest, progress)


def examine_delegate(
    checkpoint: Checkpoint,
    path: Path | str,
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """What is found about a ``.pte`` for the delegate; see ``verify_coreml_pte``."""
    progress("proving what is in the delegate beside a float32 one made anew")
    checkpoint = _of_its_latency(checkpoint, coreml_delegate.read_delegate_card(Path(path)))
    report = report_of(coreml_delegate.examine_coreml_pte(checkpoint, path))
    return _with_words(report, checkpoint, delegate_log_probs, Path(path), manifest, progress)


def _kept(
    checkpoint: Checkpoint,
    path: Path,
    make: Callable[[Path], coreml.ExportedPackage],
    hearing: Callable[[Path], LogProbs],
    manifest: Path | str | None,
    progress: Progress,
) -> MadeForCoreML:
    """Make an artefact in a folder of its own, and move it to ``path`` if its words are right."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        made = make(Path(folder) / path.name)
        report = report_of(made.report)
        _with_words(report, checkpoint, hearing, made.path, manifest, progress)
        report.require_passed(path)
        if report.words is not None and made.path.is_dir():
            card = {**made.card, "verification": {**made.card["verification"], **_words(report)}}
            describe(made.path, card, str(checkpoint.provenance.get("author", "unknown")))
        report.write(Path(folder) / "report.json")
        replace_package(made.path, path)
        (Path(folder) / "report.json").replace(report_path(path))
    return MadeForCoreML(path, report)


def report_of(value: Mapping[str, Any]) -> Report:
    """The report of a proof as every target gives it."""
    return Report(
        target=value["target"],
        precision=value["precision"],
        file=dict(value["file"]),
        thresholds=dict(value["thresholds"]),
        versions=dict(value["versions"]),
        faults=list(value["faults"]),
        methods=dict(value["methods"]),
        agreement=value["agreement"],
        more={name: value[name] for name in ("experimental", "float32_agreement", "core_ml")},
    )


def package_kit(path: Path) -> tuple[Step, str]:
    """What a kit needs of a package: its step in the interpreter, and its card."""
    return coreml.package_step(path), json.dumps(read_card(path))


def package_log_probs(path: Path) -> LogProbs:
    """What a package hears in the interpreter: chunk by chunk if it has a step.

    Raises:
        ExportError: it gives no text.
    """
    card, interpreter = read_card(path), Interpreter(path)
    names = function_names(interpreter, card)
    if STEP in names:
        config = EncoderConfig.from_dict(card["architecture"])
        return stepped_log_probs(coreml.package_step(path), config)
    lengths = card["package"]["lengths"].get(FORWARD, [])
    method = card["methods"][FORWARD]

    def heard(samples: np.ndarray) -> torch.Tensor:
        padded, inputs = _fitted(samples, lengths, method), {}
        if lengths:
            inputs[SAMPLE_COUNT] = torch.tensor([len(samples)])
        inputs[WAVEFORM] = torch.from_numpy(padded)[None]
        outputs, _ = interpreter.run(names[FORWARD], inputs)
        if "log_probs" not in outputs:
            raise ExportError(f"{path} gives no log_probs; export a student with a CTC head")
        frames = frame_count(len(samples) if lengths else len(padded))
        return outputs["log_probs"][0, : max(1, frames)]

    return heard


def delegate_log_probs(path: Path) -> LogProbs:
    """The same of what is in the delegate of a ``.pte``."""
    card = coreml_delegate.read_delegate_card(path)
    config = EncoderConfig.from_dict(card["architecture"])
    # Lives as long as what hears with it, which reads weights when it comes to them.
    folder = tempfile.TemporaryDirectory(prefix="rdsdk-")
    delegated = coreml_delegate.unpack_delegate(path, Path(folder.name) / "delegate")
    outputs = card["methods"][FORWARD]["outputs"]

    def run(waveform: np.ndarray, state: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        assert Path(folder.name).is_dir()
        got = delegated.run([torch.from_numpy(np.asarray(waveform, np.float32))[None], *state])
        return dict(zip(outputs, got, strict=True))

    if config.context is None:
        return lambda samples: run(_fitted(samples, (), card["methods"][FORWARD]), ())["log_probs"][
            0
        ]

    def step(waveform: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        given = _fresh(card) if state is None else state
        got = run(waveform, given)
        following = EncoderState(*(got[name] for name in EncoderState._fields))
        return got["log_probs"][0].numpy(), following

    return stepped_log_probs(step, config)


def _fresh(card: Mapping[str, Any]) -> EncoderState:
    shapes = {entry["name"]: entry["shape"] for entry in card["state"]}
    return EncoderState(*(torch.zeros(*shapes[name]) for name in EncoderState._fields))


def _fitted(samples: np.ndarray, lengths: Sequence[int], method: Mapping[str, Any]) -> np.ndarray:
    """Zeros behind a recording, up to a length that is taken."""
    known = [length for length in lengths if length >= len(samples)]
    longest = lengths[-1] if lengths else method["max_samples"]
    if len(samples) > longest:
        raise ExportError(
            f"a recording of {len(samples) / SAMPLE_RATE:.1f} s is longer than the "
            f"{longest / SAMPLE_RATE:.1f} s that the artefact takes; leave it out of the manifest"
        )
    length = known[0] if lengths else max(len(samples), method["min_samples"])
    return np.pad(np.asarray(samples, np.float32), (0, length - len(samples)))


def _of_its_latency(checkpoint: Checkpoint, card: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in an artefact's own context: words, too, are compared at one latency."""
    return for_its_latency(checkpoint, EncoderConfig.from_dict(card["architecture"]))


def _with_words(
    report: Report,
    checkpoint: Checkpoint,
    hearing: Callable[[Path], LogProbs],
    path: Path,
    manifest: Path | str | None,
    progress: Progress,
) -> Report:
    """The report, with word error rates if there is a manifest and nothing was at fault before."""
    if report.passed and manifest is not None:
        progress("comparing word error rates, in the interpreter")
        compare_words(report, checkpoint, hearing(path), manifest)
    return report


def _words(report: Report) -> dict[str, Any]:
    assert report.words is not None
    return {name: report.words[name] for name in ("words", "checkpoint_wer", "artefact_wer")}


def _without_layers(layers: Sequence[int]) -> None:
    if layers:
        raise ExportError(
            "layers are of the method features, which a .pte for XNNPACK has; leave --layers out"
        )
