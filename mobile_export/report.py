"""The report of a verification: every figure and the verdict, as JSON and as a few lines of text.

``PATH.report.json`` holds

- ``format`` "rdsdk-export-report", ``version``, ``verdict`` ("passed" or "refused"), ``faults`` (a
  sentence each), ``target``, ``precision``, ``thresholds``, ``versions``;
- ``file``: ``name``, ``bytes``, ``weight_bytes``, ``floor_bytes`` (parameters times the bytes that
  one takes in this precision, and the spectra of energies in float32), ``file_to_floor``;
- ``methods``: for each, ``delegate_calls``, ``outside`` (operators outside the delegate, with their
  number), ``softmaxes``, ``map_owner`` (for each layer the owner of the map that it applies, read
  off the file), ``softmax_again``, ``linear_layers`` (between one attention and the next), and
  ``time``: the ``share`` of a run that is spent outside the delegate, and of which operators, or
  null for a method that was not timed;
- ``agreement``: signal-to-noise ratios in decibels, 200 if equal bit for bit; for each tensor
  ``worst_snr_db`` (artefact to float32 checkpoint, worst call), ``worst_twin_snr_db`` (artefact to
  the same quantised student in torch), ``snr_db`` and ``twin_to_checkpoint_snr_db`` (over all
  calls: what the artefact, and its precision by itself, costs); null if the structure was refused;
- ``words``: word error rates of both on a manifest, or null without one;
- of Core ML's targets: ``experimental``; ``float32_agreement`` of the float32 programs that the
  artefact had to follow; ``core_ml``, whether it ran in Core ML itself, and what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdsdk.errors import ExportError

FORMAT = "rdsdk-export-report"
VERSION = 1


@dataclass
class Report:
    """What was found about one artefact. A part that a target does not have stays empty.

    ``methods``, ``file``, ``agreement`` and ``words`` are JSON values as described above, so that
    every target fills the same form.
    """

    target: str
    precision: str
    file: dict[str, Any]
    thresholds: dict[str, Any]
    versions: dict[str, str]
    faults: list[str] = field(default_factory=list)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    agreement: dict[str, Any] | None = None
    words: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What only one target has."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found at fault."""
        return not self.faults

    def require_passed(self, path: Path | str) -> None:
        """Do nothing if all is well.

        Raises:
            ExportError: something is not; says all of it.
        """
        if self.faults:
            raise ExportError(
                f"{path} does not do what its checkpoint does: " + "; ".join(self.faults)
            )

    def to_dict(self) -> dict[str, Any]:
        """The whole report, a JSON value."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "verdict": "passed" if self.passed else "refused",
            "faults": self.faults,
            "target": self.target,
            "precision": self.precision,
            "file": self.file,
            "thresholds": self.thresholds,
            "methods": self.methods,
            "agreement": self.agreement,
            "words": self.words,
            **self.more,
            "versions": self.versions,
        }

    def summary(self) -> dict[str, Any]:
        """What goes into the card: the verdict and a figure for each question."""
        value: dict[str, Any] = {"verdict": "passed" if self.passed else "refused"}
        if self.agreement is not None:
            for name in ("calls", "worst_snr_db", "worst_twin_snr_db"):
                value[name] = self.agreement.get(name)
        value["file_to_floor"] = self.file.get("file_to_floor")
        shares = {name: outside_share(method) for name, method in self.methods.items()}
        if known := {name: share for name, share in shares.items() if share is not None}:
            value["outside_time_share"] = known
        if self.words is not None:
            for name in ("words", "checkpoint_wer", "artefact_wer"):
                value[name] = self.words[name]
        return value

    def lines(self) -> list[str]:
        """The same for a reader."""
        file, said = self.file, []
        if "floor_bytes" in file:
            said.append(
                f"{file['bytes'] / 1e6:.2f} MB, {file['file_to_floor']:.2f} times the "
                f"{file['floor_bytes'] / 1e6:.2f} MB of its parameters in {self.precision}"
            )
        if self.agreement is not None:
            twin = self.agreement.get("worst_twin_snr_db")
            said.append(
                f"agrees with the checkpoint to {self.agreement['worst_snr_db']} dB at worst "
                f"({self.agreement['worst']}; {self.agreement['calls']} calls)"
                + ("" if twin is None else f", with the quantised student in torch to {twin} dB")
            )
        said += [_method_line(name, method) for name, method in self.methods.items()]
        if self.words is not None:
            said.append(
                f"word error rate {100 * self.words['artefact_wer']:.2f} %, the checkpoint's "
                f"{100 * self.words['checkpoint_wer']:.2f} % ({self.words['words']} words of "
                f"{self.words['manifest']})"
            )
        return said

    def write(self, path: Path) -> Path:
        """Write the report, whole or not at all."""
        part = path.with_name(path.name + ".part")
        try:
            part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path


def require_place(path: Path, suffix: str) -> None:
    """Do nothing if an artefact may be written to ``path``.

    Raises:
        ExportError: its name ends otherwise, its folder is not there, or it is to be a file and is
            a folder.
    """
    if path.suffix != suffix:
        raise ExportError(f"{path} does not end in {suffix}; name the artefact like model{suffix}")
    if suffix == ".pte" and path.is_dir():
        raise ExportError(f"{path} is a folder, and is to be a file; give another name")
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent} is not a folder; make it first")


def report_path(artefact: Path) -> Path:
    """Where the report of an artefact lies: beside it."""
    return artefact.with_name(artefact.name + ".report.json")


def outside_share(method: Mapping[str, Any]) -> float | None:
    """The share of a method's time outside the delegate, if it was measured."""
    time = method.get("time")
    return None if time is None else float(time["share"])


def _method_line(name: str, method: Mapping[str, Any]) -> str:
    if "delegate_calls" not in method:
        return f"{name}: {method['softmaxes']} softmaxes, one an attention map"
    line = f"{name}: {method['delegate_calls']} delegate calls"
    time = method.get("time")
    if time is None:
        return line
    most = [f"{key} {100 * share:.1f} %" for key, share in list(time["operators"].items())[:3]]
    return f"{line}; {100 * time['share']:.1f} % of the time outside them: {', '.join(most)}"
