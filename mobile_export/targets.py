"""What a checkpoint can be exported to: one row a target, for the command line and for tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mobile_export import (
    coreml,
    coreml_conversion,
    coreml_delegate,
    coreml_targets,
    executorch,
    verify,
)
from mobile_export.quantize import PRECISIONS
from mobile_export.report import Report
from mobile_export.vectors import Step
from rdsdk.errors import ExportError


class Made(Protocol):
    """What an export gives: the artefact, which exists, and the report on it."""

    @property
    def path(self) -> Path:
        """The artefact, a file or a folder."""

    @property
    def report(self) -> Report:
        """What was found about it."""


@dataclass(frozen=True)
class Target:
    """One kind of artefact.

    Args:
        suffix: the ending of its name.
        precisions: what ``export`` takes.
        export: ``(checkpoint, path, precision, name, measured, *, method_names, layers, manifest,
            progress) -> Made``; writes ``path`` and its report, or raises and leaves nothing.
        examine: ``(checkpoint, path, manifest, progress) -> Report`` of an existing artefact.
        step: ``path -> (step, card as JSON)``, which a kit needs of artefacts that ExecuTorch does
            not run here; None where it does.
    """

    suffix: str
    precisions: tuple[str, ...]
    export: Callable[..., Made]
    examine: Callable[..., Report]
    step: Callable[[Path], tuple[Step, str]] | None = None


TARGETS: dict[str, Target] = {
    "pte": Target(".pte", tuple(PRECISIONS), executorch.export, verify.examine),
    "mlpackage": Target(
        coreml.SUFFIX,
        tuple(coreml_conversion.PRECISIONS),
        coreml_targets.export_package,
        coreml_targets.examine_package,
        coreml_targets.package_kit,
    ),
    "coreml-pte": Target(
        ".pte",
        coreml_delegate.PRECISIONS,
        coreml_targets.export_delegate,
        coreml_targets.examine_delegate,
    ),
}


def target_named(name: str, precision: str) -> Target:
    """A target by its name, if it knows the precision.

    Raises:
        ExportError: it is no target, or has no such precision; names those there are.
    """
    if name not in TARGETS:
        raise ExportError(f"no target is named {name!r}; there are {', '.join(TARGETS)}")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ExportError(
            f"{name} has no precision {precision!r}; it has {', '.join(target.precisions)}"
        )
    return target


def target_of(artefact: Path) -> str:
    """The name of the target that an artefact is of: by its ending, and what a ``.pte`` calls.

    Raises:
        ExportError: there is none with such an ending.
    """
    name = target_of_suffix(artefact.suffix)
    if name == "pte" and artefact.is_file() and b"CoreMLBackend" in artefact.read_bytes():
        return "coreml-pte"
    return name


def target_of_suffix(suffix: str) -> str:
    """The name of the first target whose artefacts end so.

    Raises:
        ExportError: there is none.
    """
    for name, target in TARGETS.items():
        if target.suffix == suffix:
            return name
    known = ", ".join(f"{name} ({target.suffix})" for name, target in TARGETS.items())
    raise ExportError(f"nothing that ends in {suffix!r} is exported here; there are {known}")
