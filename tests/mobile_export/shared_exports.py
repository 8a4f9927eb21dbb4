"""Exports that take a minute, made once a session by whichever of its processes needs one first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mobile_export.coreml import ExportedPackage
from mobile_export.executorch import Exported
from mobile_export.report import Report


def shared(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Exported]
) -> Exported:
    """What ``make`` exported into the folder that it is given."""
    found = _made_once(factory, name, make)
    paths = {key: Path(found[key]) for key in ("path", "report_path")}
    return Exported(**{**found, **paths, "report": Report(**found["report"])})


def shared_package(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], ExportedPackage]
) -> ExportedPackage:
    """The same of a Core ML package."""
    found = _made_once(factory, name, make)
    return ExportedPackage(**{**found, "path": Path(found["path"])})


def _made_once(
    factory: pytest.TempPathFactory,
    name: str,
    make: Callable[[Path], Exported] | Callable[[Path], ExportedPackage],
) -> dict[str, Any]:
    own = factory.getbasetemp()
    # The workers of one session have their folders side by side.
    home = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exports"
    folder, described = home / name, home / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"{name}.lock"):
        if not described.exists():
            described.write_text(json.dumps(asdict(make(folder)), default=str))
        found: dict[str, Any] = json.loads(described.read_text())
    return found
