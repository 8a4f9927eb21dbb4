"""Converted functions -> one ``.mlpackage`` that describes itself and holds nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobile_export.coreml_card import MAIN, describe
from mobile_export.coreml_conversion import coremltools, quiet
from mobile_export.coreml_programs import FORWARD, STEP
from mobile_export.coreml_structure import FILES
from rdsdk.errors import ExportError
from rdsdk.outputs import usual_mode


def ios_version(functions: Mapping[str, Any]) -> int:
    """The iOS that a package of these functions needs: states and several functions are of 18."""
    return 18 if STEP in functions else 17


def write_package(
    models: Mapping[str, Any], path: Path, card: Mapping[str, Any], author: str
) -> Path:
    """Write converted functions to a new folder ``path``; several share equal weights.

    Raises:
        ExportError: coremltools cannot write or merge them.
    """
    try:
        with quiet():
            if len(models) == 1:
                next(iter(models.values())).save(str(path))
            else:
                _merge(models, path)
    except Exception as error:
        raise ExportError(f"writing {path} failed: {type(error).__name__}: {error}") from error
    # coremltools leaves a map for its debugger behind.
    for item in path.rglob("*"):
        if item.is_file() and item.relative_to(path).as_posix() not in FILES:
            item.unlink()
    describe(path, card, author)
    # coremltools lets nobody but the owner read.
    for item in (path, *path.rglob("*")):
        item.chmod(usual_mode(0o777 if item.is_dir() else 0o666))
    return path


def replace_package(made: Path, path: Path) -> None:
    """Move a finished package to ``path``; one that was there is only removed after that."""
    if not path.exists():
        made.rename(path)
        return
    older = made.with_name("older")
    path.rename(older)
    try:
        made.rename(path)
    except OSError:
        older.rename(path)
        raise
    shutil.rmtree(older) if older.is_dir() else older.unlink()


def size_bytes(path: Path) -> int:
    """All files of a package."""
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def _merge(models: Mapping[str, Any], path: Path) -> None:
    ct = coremltools()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".parts-") as folder:
        parts = ct.utils.MultiFunctionDescriptor()
        for name, model in models.items():
            part = Path(folder) / f"{name}.mlpackage"
            model.save(str(part))
            parts.add_function(str(part), src_function_name=MAIN, target_function_name=name)
        parts.default_function_name = FORWARD
        ct.utils.save_multifunction(parts, str(path))
