"""How much of its time an artefact spends outside the XNNPACK delegate, and in which operators.

Measured in the very file that ships, by the events that ExecuTorch's runtime records of each kernel
and delegate call (ETDump). Recording itself takes a little, so that these are shares of one run and
no speeds.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mobile_export import flatbuffers
from mobile_export.agreement import probe_sound
from mobile_export.flatbuffers import schema_path
from rdsdk.models.config import SAMPLE_RATE
from rdsdk.runtime import executorch
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.card import Card, Method

DELEGATE = "delegate"
_PRIMITIVE = "arithmetic on lengths"  # has no kernel, and so no name, of its own
RUNS = 5
SECONDS = 10.0


@dataclass(frozen=True)
class OutsideTime:
    """Where one method spent its time: medians over ``RUNS`` runs after one that is not counted.

    ``share`` is that outside the delegate, from 0 to 1; ``operators`` divides it, largest first.
    """

    share: float
    operators: Mapping[str, float]
    samples: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "share": round(self.share, 4),
            "operators": {name: round(share, 4) for name, share in self.operators.items()},
            "samples": self.samples,
            "runs": RUNS,
            "threads": self.threads,
        }


def outside_times(path: Path | str, card: Card) -> dict[str, OutsideTime]:
    """Measure ``forward`` on about ten seconds, and ``step`` if there is one.

    Raises:
        ModelError: the artefact cannot be loaded.
    """
    data = read_artefact(path)
    names = [name for name in ("forward", "step") if name in card.methods]
    return {name: _measure(data, card, name) for name in names}


def _measure(data: bytes, card: Card, name: str) -> OutsideTime:
    binding = executorch.binding()
    waveform = probe_sound(SECONDS + 1)[: _samples(card, card.methods[name])]
    arrays = [waveform[None], *(np.zeros(shape, np.float32) for shape in card.state.values())]
    inputs = [torch.from_numpy(array) for array in arrays]
    with executorch.quiet():
        module = binding._load_for_executorch_from_buffer(data, enable_etdump=True)
    executorch.pool_is_used()
    for _ in range(RUNS + 1):
        module.run_method(name, inputs)
    with tempfile.TemporaryDirectory() as folder:
        events, rest = Path(folder) / "events.etdp", Path(folder) / "debug.bin"
        module.write_etdump_result_to_file(str(events), str(rest))
        schema = schema_path("executorch.devtools", "etdump", "etdump_schema_flatcc.fbs")
        (recorded,) = flatbuffers.decode(schema, [events.read_bytes()], "--size-prefixed")
    runs = [_spent(run) for run in recorded["run_data"] if run["name"] == "Execute"][1:]
    shares = [{key: time / sum(spent.values()) for key, time in spent.items()} for spent in runs]
    operators = {key: median(share[key] for share in shares) for key in shares[0]}
    return OutsideTime(
        share=1 - operators.pop(DELEGATE),
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        samples=len(waveform),
        threads=binding._threadpool_get_thread_count(),
    )


def _spent(run: Mapping[str, Any]) -> Counter[str]:
    """Nanoseconds of one run by operator, those of delegate calls together under one name."""
    spent, operator = Counter[str](), _PRIMITIVE
    for event in run["events"]:
        profile = event.get("profile_event") or {}
        name = profile.get("name") or ""
        if name == "DELEGATE_CALL":
            spent[DELEGATE] += profile["end_time"] - profile["start_time"]
        elif name == "OPERATOR_CALL":
            spent[operator] += profile["end_time"] - profile["start_time"]
            operator = _PRIMITIVE
        elif name.startswith("native_call_"):
            # Recorded just before the call that it is part of.
            operator = name.removeprefix("native_call_").partition(".")[0]
    return spent


def _samples(card: Card, method: Method) -> int:
    """About ``SECONDS``, as whole chunks if the model streams."""
    wanted = int(SECONDS * SAMPLE_RATE)
    if card.context is not None:
        chunks = max(1, wanted // card.chunk_samples)
        wanted = chunks * card.chunk_samples + card.overlap_samples
    return min(max(wanted, method.min_samples), method.max_samples)
