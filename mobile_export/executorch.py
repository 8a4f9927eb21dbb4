"""A checkpoint -> a ``.pte`` for XNNPACK, kept only when it does what the checkpoint does."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower

from mobile_export.programs import Method, card, folded, methods
from mobile_export.quantize import quantize
from mobile_export.structure import Structure, check_structure, structure
from mobile_export.verify import Agreement, verify
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.artefact import seal


@dataclass(frozen=True)
class Lowered:
    """A lowered program and what the graph of each method holds."""

    buffer: bytes
    structures: Mapping[str, Structure]


@dataclass(frozen=True)
class Exported:
    """What an export made, and how it agrees with its checkpoint."""

    path: Path
    size_bytes: int
    card: dict[str, Any]
    lowered: Lowered
    agreement: Agreement

    @property
    def state_bytes(self) -> int:
        """What a stream remembers, in bytes; 0 for a full-context artefact."""
        return sum(4 * prod(entry["shape"]) for entry in self.card["state"])


def lower(methods: Mapping[str, Method], card_json: str) -> Lowered:
    """Lower methods for XNNPACK into one program, with its card as a constant method.

    Raises:
        ExportError: torch or ExecuTorch cannot lower it; says where it stopped.
    """
    with warnings.catch_warnings(action="ignore"), _without_onednn():
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            edge = to_edge_transform_and_lower(
                {
                    name: torch.export.export(
                        method.module,
                        method.example,
                        dynamic_shapes=method.dynamic_shapes,
                        strict=False,
                    )
                    for name, method in methods.items()
                },
                partitioner=[XnnpackPartitioner()],
                constant_methods={"card": card_json},
            )
            structures = {
                name: structure(edge.exported_program(name).graph_module) for name in methods
            }
            buffer = edge.to_executorch().buffer
        except Exception as error:
            raise ExportError(
                f"lowering for XNNPACK failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            logging.disable(level)
    return Lowered(buffer, structures)


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
) -> Exported:
    """Write ``path`` if, and only if, the lowered program agrees with the checkpoint.

    Raises:
        ExportError: an unknown precision, a failed lowering, a graph that does not reuse attention
            maps or leaves products outside the delegate, or outputs that differ; nothing is left at
            ``path`` then, and what was there before is untouched.
    """
    path = Path(path)
    if path.suffix != ".pte":
        raise ExportError(f"{path} does not end in .pte; name the artefact like model.pte")
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent} is not a folder; make it first")
    student = folded(quantize(checkpoint.student, precision))
    made = methods(student)
    description = card(checkpoint, made, name or path.stem, precision, measured)
    lowered = lower(made, json.dumps(description))
    for method, found in lowered.structures.items():
        check_structure(checkpoint.student.config, method, found)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        candidate = Path(folder) / path.name
        candidate.write_bytes(seal(lowered.buffer))
        agreement = verify(checkpoint, candidate)
        candidate.replace(path)
    return Exported(path, path.stat().st_size, description, lowered, agreement)
