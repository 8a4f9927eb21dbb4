"""A recurrent language model -> a ``.rnnlm`` for XNNPACK, kept only when it says the same.

The file is an ExecuTorch program with the method ``advance`` (see ``rdsdk.decoding.rnnlm``) and a
card. Precisions: ``fp32``; ``int8``, in which linear layers have int8 weights with one scale an
output channel and inputs rounded to int8 with one scale a row, and the embedding has int8 rows with
one scale a word.

Shapes: N sentences side by side, V words, P and H widths of the state.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from mobile_export.executorch import RESERVED_CARD_BYTES, completed, lower
from mobile_export.products import linear_of, replace_modules
from mobile_export.programs import Method
from mobile_export.progress import Progress, silent
from mobile_export.pte_graph import read_graph
from mobile_export.quantize import round_to_int8
from mobile_export.report import require_place
from mobile_export.rnnlm_agreement import Agreement, require_alike, require_spelled
from mobile_export.structure import HOT
from rdsdk.decoding.rnnlm import FORMAT, METHOD, VERSION
from rdsdk.decoding.rnnlm import RnnLm as Runtime
from rdsdk.errors import ExportError
from rdsdk.models import rnnlm
from rdsdk.models.rnnlm import RnnLm
from rdsdk.runtime.artefact import read_artefact, seal

SUFFIX = ".rnnlm"
MOST = 64
"""Sentences that one call advances."""
PRECISIONS = ("fp32", "int8")
LEAST_PROBABILITY = 1e-37
"""Of a word: the logarithm of a smaller one, or of zero, would be no number."""


class IntEmbedding(nn.Module):
    """An embedding with int8 rows and one scale a word."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        self.register_buffer("rows", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, words: Tensor) -> Tensor:
        """Words (N,) -> rows (N, E)."""
        rows, scale = self.get_buffer("rows"), self.get_buffer("scale")
        return rows.index_select(0, words).to(torch.float32) * scale.index_select(0, words)


class SoftmaxRows(nn.Module):
    """What is read of a word that has no embedding: its row of the softmax.

    The words of each class have a table, with a row of zeros for all other words, so that what is
    found in the tables can be added up.
    """

    def __init__(self, model: RnnLm) -> None:
        super().__init__()
        classes = model.output_rows()
        self.places = [(each.begin, each.end) for each in classes]
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(nn.functional.pad(each.rows.detach(), (0, 0, 0, 1)))
            for each in classes
        )
        self.widen = nn.ModuleList(
            nn.Identity() if each.widen is None else linear_of(each.widen.T) for each in classes
        )

    def forward(self, words: Tensor) -> Tensor:
        """Words (N,) -> rows (N, P)."""
        rows = []
        for (begin, end), table, widen in zip(self.places, self.tables, self.widen, strict=True):
            inside = (words >= begin) & (words < end)
            rows.append(widen(table(torch.where(inside, words - begin, end - begin))))
        return torch.stack(rows).sum(dim=0)


class Advance(nn.Module):
    """One step of a model, spelled in plain linear layers, with its weights.

    Each gate is a layer of its own: a slice of one product would leave the delegate. For the same
    reason the classes of rarer words have a layer beside that of the frequent words. The logarithm
    is taken of probabilities: XNNPACK has that, but no log_softmax.
    """

    def __init__(self, model: RnnLm) -> None:
        super().__init__()
        own = model.embedding
        self.embedding: nn.Module = SoftmaxRows(model) if own is None else deepcopy(own)
        read, kept, bias_read, bias_kept, projection = (
            model.lstm.get_parameter(f"{name}_l0")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        )
        offsets = (bias_read + bias_kept).chunk(4)
        self.read = nn.ModuleList(map(linear_of, read.chunk(4), offsets))
        self.kept = nn.ModuleList(map(linear_of, kept.chunk(4)))
        self.projection = linear_of(projection)
        frequent, head = model.output.shortlist_size, model.output.head
        self.frequent = linear_of(head.weight[:frequent], head.bias[:frequent])
        self.classes = linear_of(head.weight[frequent:], head.bias[frequent:])
        self.tails = nn.ModuleList(
            nn.Sequential(*(linear_of(layer.get_parameter("weight")) for layer in tail.children()))
            for tail in model.output.tail
        )

    def forward(self, words: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """words (N,), hidden (N, P), cell (N, H) -> log_probs (N, V), hidden, cell."""
        row = self.embedding(words)
        gates = [read(row) + kept(hidden) for read, kept in zip(self.read, self.kept, strict=True)]
        begun, forgotten, new, shown = gates
        cell = torch.sigmoid(forgotten) * cell + torch.sigmoid(begun) * torch.tanh(new)
        hidden = self.projection(torch.sigmoid(shown) * torch.tanh(cell))
        head = torch.cat([self.frequent(hidden), self.classes(hidden)], dim=1).softmax(dim=1)
        frequent = head.shape[1] - len(self.tails)
        rarer = [
            tail(hidden).softmax(dim=1) * head[:, frequent + at : frequent + at + 1]
            for at, tail in enumerate(self.tails)
        ]
        probabilities = torch.cat([head[:, :frequent], *rarer], dim=1)
        return probabilities.clamp(LEAST_PROBABILITY, 1.0).log(), hidden, cell


@dataclass(frozen=True)
class Exported:
    """What an export made, and how it differs from its model."""

    path: Path
    size_bytes: int
    card: dict[str, Any]
    agreement: Agreement


def export_rnnlm(
    folder: Path | str,
    path: Path | str,
    precision: str = "int8",
    measured: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write ``path`` if, and only if, the lowered program is proven in the real runtime.

    Args:
        folder: what ``rdsdk prepare rnnlm`` wrote.
        path: a new or old ``.rnnlm``.
        precision: one of ``PRECISIONS``.
        measured: figures for the card, beside those that the folder has.
        progress: called with a line as each stage begins.

    Raises:
        CheckpointError: the folder holds no such model, or a damaged one.
        ExportError: an unknown precision, a failed lowering, or a program that says something else
            than the model; nothing is left at ``path`` then, and what was there is untouched.
    """
    path = Path(path)
    require_place(path, SUFFIX)
    if precision not in PRECISIONS:
        raise ExportError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    model, provenance = rnnlm.load(folder)
    progress(f"preparing the language model in {precision}")
    advance = Advance(model).eval()
    require_spelled(advance, model)
    if precision == "int8":
        rounded(advance)
    description = _card(model, provenance, precision, measured or {})
    blank_card = json.dumps(description) + " " * RESERVED_CARD_BYTES
    program = lower({METHOD: _method(advance, model)}, blank_card, progress)
    _require_delegated(program)
    progress("comparing it with the language model in the real runtime")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as beside:
        candidate = Path(beside) / path.name
        candidate.write_bytes(seal(program))
        agreement = require_alike(candidate, advance, model, precision)
        description["verification"] = agreement.to_dict()
        candidate.write_bytes(seal(completed(program, blank_card, description)))
        candidate.replace(path)
    return Exported(path, path.stat().st_size, description, agreement)


def verify_rnnlm(path: Path | str, folder: Path | str) -> Agreement:
    """Is this file still what that model says? The same proof as in its export.

    Raises:
        CheckpointError: the folder holds no such model, or a damaged one.
        ModelError: the runtime does not take the file.
        ExportError: it has other words, is slow, or says something else than the model; says what.
    """
    path = Path(path)
    program = Runtime(path)
    precision = program.card.get("precision")
    if precision not in PRECISIONS:
        raise ExportError(f"{path}: its card names the precision {precision!r}; export it again")
    model, _ = rnnlm.load(folder)
    widths = tuple(program.card[name] for name in ("hidden", "projection"))
    expected = (model.config.hidden, model.config.projection)
    if widths != expected:
        raise ExportError(f"{path} has (hidden, projection) {widths}, its model {expected}")
    if program.words != model.config.words:
        raise ExportError(
            f"{path} knows {len(program.words)} words, and they are not the "
            f"{len(model.config.words)} of its model, in that order"
        )
    _require_delegated(read_artefact(path))
    advance = Advance(model).eval()
    if precision == "int8":
        rounded(advance)
    return require_alike(path, advance, model, precision)


def rounded(advance: Advance) -> Advance:
    """Its weights to int8, in place."""
    replace_modules(advance, _int_embedding)
    round_to_int8(advance)
    return advance


def _int_embedding(module: nn.Module) -> IntEmbedding | None:
    return IntEmbedding(module.weight.detach()) if isinstance(module, nn.Embedding) else None


def _method(advance: Advance, model: RnnLm) -> Method:
    count = Dim("count", min=1, max=MOST)
    # Not one: the exporter takes that for a constant.
    example = (torch.tensor([0, 1, 0]), *model.fresh_state(3))
    shapes = ({0: count}, {0: count}, {0: count})
    outputs = ("log_probs", "hidden", "cell")
    return Method(advance, example, shapes, ("words", "hidden", "cell"), outputs, 1, MOST)


def _card(
    model: RnnLm, provenance: Mapping[str, Any], precision: str, measured: Mapping[str, Any]
) -> dict[str, Any]:
    config = model.config
    data, known = provenance.get("training_data", []), provenance.get("measured", {})
    return {
        "format": FORMAT,
        "version": VERSION,
        "words": list(config.words),
        "embedding": config.embedding,
        "hidden": config.hidden,
        "projection": config.projection,
        "cutoffs": list(config.cutoffs),
        "precision": precision,
        "parameters": model.parameter_count(),
        "licence": str(provenance.get("licence", "unknown")),
        "training_data": [str(item) for item in data] if isinstance(data, list) else [],
        "measured": {**(known if isinstance(known, dict) else {}), **measured},
        "rdsdk_version": version("rdsdk"),
    }


def _require_delegated(program: bytes) -> None:
    """Refuse a program that would be slow: ExecuTorch's own kernels take 50 times as long."""
    outside = read_graph(program).methods[METHOD].operators(delegated=False)
    if slow := sorted(set(outside) & {*HOT, "_log_softmax", "log", "exp"}):
        raise ExportError(f"the operators {slow} were left outside the XNNPACK delegate")
