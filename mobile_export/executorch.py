"""A checkpoint -> a ``.pte`` for XNNPACK, kept only when it does what the checkpoint does."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch.fx import GraphModule

from mobile_export.programs import Method, card, folded, forward_method
from mobile_export.quantize import quantize
from mobile_export.verify import Agreement, check_structure, verify
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.artefact import seal


@dataclass(frozen=True)
class Lowered:
    """A lowered program and what its graph holds."""

    buffer: bytes
    delegates: int
    delegated: Counter[str]
    """Operators inside the delegates, by name."""
    outside: Counter[str]
    """Operators that the portable and optimised kernels run, by name."""


@dataclass(frozen=True)
class Exported:
    """What an export made, and how it agrees with its checkpoint."""

    path: Path
    size_bytes: int
    card: dict[str, Any]
    lowered: Lowered
    agreement: Agreement


def lower(method: Method, card_json: str) -> Lowered:
    """Lower one method for XNNPACK, with its card as a constant method.

    Raises:
        ExportError: torch or ExecuTorch cannot lower it; says where it stopped.
    """
    with warnings.catch_warnings(action="ignore"), _without_onednn():
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            exported = torch.export.export(
                method.module, method.example, dynamic_shapes=method.dynamic_shapes, strict=False
            )
            edge = to_edge_transform_and_lower(
                {"forward": exported},
                partitioner=[XnnpackPartitioner()],
                constant_methods={"card": card_json},
            )
            graph_module = edge.exported_program("forward").graph_module
            delegates = get_lowered_submodules(graph_module)
            delegated = Counter[str]()
            for _, module, _ in delegates:
                delegated += operators(module.original_module.graph_module)
            buffer = edge.to_executorch().buffer
        except Exception as error:
            raise ExportError(
                f"lowering for XNNPACK failed: {type(error).__name__}: {error}"
            ) from error
        finally:
            logging.disable(level)
    return Lowered(buffer, len(delegates), delegated, operators(graph_module))


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


def operators(module: GraphModule) -> Counter[str]:
    """How often each operator stands in a graph, by its bare name: ``aten.bmm.default`` -> bmm."""
    found: Counter[str] = Counter()
    for node in module.graph.nodes:
        name = getattr(node.target, "_schema", None) if node.op == "call_function" else None
        if name is not None:
            found[str(name.name).split("::")[-1]] += 1
    return found


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
    method = forward_method(student)
    description = card(checkpoint, method, name or path.stem, precision, measured)
    lowered = lower(method, json.dumps(description))
    check_structure(checkpoint.student.config, lowered.delegated, lowered.outside)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        candidate = Path(folder) / path.name
        candidate.write_bytes(seal(lowered.buffer))
        agreement = verify(checkpoint, candidate)
        candidate.replace(path)
    return Exported(path, path.stat().st_size, description, lowered, agreement)
