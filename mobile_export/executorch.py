"""A checkpoint -> a ``.pte`` for XNNPACK, kept only when it does what the checkpoint does."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.utils.configs import get_xnnpack_edge_compile_config
from executorch.exir import to_edge_transform_and_lower

from mobile_export.partition import partitioner
from mobile_export.programs import Method, card, folded, methods
from mobile_export.progress import Progress, silent
from mobile_export.quantize import quantize
from mobile_export.report import Report, report_path, require_place
from mobile_export.verify import verify
from rdsdk.decoding.decoder import new_decoder
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.artefact import seal

RESERVED_CARD_BYTES = 2048
"""Blanks after the card in a lowered program: what is found out about the finished file goes there,
so that no other byte of it changes any more."""


@dataclass(frozen=True)
class Exported:
    """What an export made, and what was found when it was compared with its checkpoint."""

    path: Path
    report_path: Path
    size_bytes: int
    card: dict[str, Any]
    report: Report

    @property
    def state_bytes(self) -> int:
        """What a stream remembers, in bytes; 0 for a full-context artefact."""
        return sum(4 * prod(entry["shape"]) for entry in self.card["state"])


def lower(methods: Mapping[str, Method], card_json: str, progress: Progress = silent) -> bytes:
    """Lower methods for XNNPACK into one program, with its card as a constant method.

    Raises:
        ExportError: torch or ExecuTorch cannot lower it; says where it stopped.
    """
    with warnings.catch_warnings(action="ignore"), _without_onednn():
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            programs = {}
            for name, method in methods.items():
                progress(f"tracing {name}")
                programs[name] = torch.export.export(
                    method.module,
                    method.example,
                    dynamic_shapes=method.dynamic_shapes,
                    strict=False,
                )
            progress("lowering for XNNPACK, which takes a minute or more for a large student")
            edge = to_edge_transform_and_lower(
                programs,
                partitioner=[partitioner()],
                constant_methods={"card": card_json},
                # XNNPACK's own: without it every graph on the way, that of each delegate too, is
                # run again to check its dtypes. What counts is checked in the finished file.
                compile_config=get_xnnpack_edge_compile_config(),
            )
            progress("writing the program")
            return bytes(edge.to_executorch().buffer)
        except Exception as error:
            raise ExportError(
                f"lowering for XNNPACK failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            logging.disable(level)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Trace convolutions as if there were no oneDNN.

    With it, tracing asks whether an input is large enough to be worth it, and the answer for the
    example becomes a bound: memory is then planned for shorter inputs than the method allows.
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def export(
    checkpoint: Checkpoint,
    path: Path | str,
    precision: str = "int8",
    name: str | None = None,
    measured: dict[str, Any] | None = None,
    *,
    method_names: Sequence[str] | None = None,
    layers: Sequence[int] = (),
    manifest: Path | str | None = None,
    search: BeamSettings | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write ``path`` and its report if, and only if, the lowered program is proven.

    Args:
        checkpoint: the student; it is not changed.
        path: a new or old ``.pte``; its report is written to ``PATH.report.json``.
        precision: one of ``PRECISIONS``.
        name: the model's name in its card; None is the file's.
        measured: figures for the card.
        method_names: some of forward, step and features; None is forward, and step if it streams.
        layers: which hidden states ``features`` gives, from 1; the last one is always among them.
        manifest: recordings with text on which word error rates are compared.
        search: how the artefact finds its text; its files are copied beside the artefact.
        progress: called with a line as each stage begins.

    Raises:
        ExportError: an unknown precision, method or layer, a failed lowering, or an artefact that
            ``verify`` refuses; nothing is left at ``path`` then, and what was there before is
            untouched.
        DataError: the manifest cannot be used.
        ConfigError, ModelError: the search does not go with the model, or its files are missing.
    """
    path = Path(path)
    require_place(path, ".pte")
    if search is not None:
        require_search(checkpoint, search)
    progress(f"preparing the student in {precision}")
    made = methods(folded(quantize(checkpoint.student, precision)), method_names, layers)
    description = card(checkpoint, made, name or path.stem, precision, measured)
    if search is not None:
        description["search"] = search.to_dict()
    blank_card = json.dumps(description) + " " * RESERVED_CARD_BYTES
    # Made before the long work, which is for nothing where nothing can be written.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        program = lower(made, blank_card, progress)
        candidate = Path(folder) / path.name
        candidate.write_bytes(seal(program))
        files = [] if search is None else search.files()
        for file in files:
            shutil.copyfile(file, candidate.parent / file.name)
        report = verify(checkpoint, candidate, manifest, progress)
        description["verification"] = report.summary()
        candidate.write_bytes(seal(completed(program, blank_card, description)))
        report.write(report_path(candidate))
        for file in files:
            (candidate.parent / file.name).replace(path.parent / file.name)
        candidate.replace(path)
        report_path(candidate).replace(report_path(path))
    return Exported(path, report_path(path), path.stat().st_size, description, report)


def require_search(checkpoint: Checkpoint, search: BeamSettings) -> None:
    """Refuse a search that this checkpoint's text cannot be found by, before the long work.

    Raises:
        ExportError: the student writes no text, or two files have one name.
        ConfigError, ModelError: its package or a file is missing, or in other symbols.
    """
    if checkpoint.vocabulary is None:
        raise ExportError("this checkpoint writes no text, so it has no search; leave it out")
    names = [file.name for file in search.files()]
    if len(set(names)) < len(names):
        raise ExportError(
            f"two files named {names[0]} cannot lie beside one artefact; rename one of them"
        )
    new_decoder(checkpoint.vocabulary, beam=search)


def completed(program: bytes, old: str, description: Mapping[str, Any]) -> bytes:
    """The same program, byte for byte, but for the card.

    Args:
        old: the card as it was lowered, ``RESERVED_CARD_BYTES`` blanks behind it.

    Raises:
        ExportError: the new card is too long, or the old one is not there.
    """
    new = json.dumps(description).ljust(len(old))
    if len(new) != len(old) or program.count(old.encode()) != 1:
        raise ExportError("the card cannot be completed: it does not stand in the program as given")
    return program.replace(old.encode(), new.encode())
