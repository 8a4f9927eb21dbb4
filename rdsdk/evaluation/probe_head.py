"""What learns on a frozen model: a mixture of its layers and a small CTC head.

As in SUPERB (arXiv 2105.01051, section 3; s3prl's defaults): hidden states are summed with softmax
weights, projected, and read by one linear layer (phoneme recognition) or by bidirectional LSTMs and
a linear layer (speech recognition).

Shapes: B batch, T frames, L + 1 hidden states (what enters the first layer, then each), D their
width, V symbols.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models.checkpoint import write_whole

HeadKind = Literal["linear", "lstm"]

FORMAT = "rdsdk-probe"
VERSION = 1
WEIGHTS = "head.safetensors"
DESCRIPTION = "head.json"
_FIELDS = {"format", "version", "settings", "states", "width", "vocabulary", "provenance"}


@dataclass(frozen=True)
class HeadSettings:
    """The shape of a head.

    Args:
        kind: ``linear`` is one linear layer on the projected mixture; ``lstm`` has bidirectional
            LSTMs before it.
        projection: width of the projection.
        units: of each LSTM, in each direction.
        lstm_layers: how many LSTMs.
        dropout: after each LSTM.
        layer: which layer's hidden state the head gets, counted from 0, -1 being the last; None
            mixes all, and what enters the first, with weights that are learnt.
    """

    kind: HeadKind = "linear"
    projection: int = 256
    units: int = 1024
    lstm_layers: int = 2
    dropout: float = 0.2
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise ConfigError(f"head.kind is one of {list(get_args(HeadKind))}, got {self.kind!r}")
        if min(self.projection, self.units, self.lstm_layers) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "a head needs projection, units and lstm_layers of at least 1 and dropout in "
                f"[0, 1), got {self}"
            )


class ProbeHead(nn.Module):
    """L + 1 hidden states (B, T, D) -> log_probs (B, T, V). Runs in float32 whatever runs it.

    Args:
        settings: its shape.
        states: L + 1.
        width: D.
        symbols: V.

    Raises:
        ConfigError: ``settings.layer`` is no layer of the model.
    """

    def __init__(self, settings: HeadSettings, states: int, width: int, symbols: int) -> None:
        super().__init__()
        layers = states - 1
        if settings.layer is not None and not -layers <= settings.layer < layers:
            raise ConfigError(
                f"the model has layers 0 to {layers - 1} (-1 is the last), got head.layer "
                f"{settings.layer}"
            )
        self.settings = settings
        self.states, self.width, self.symbols = states, width, symbols
        self.mix = nn.Parameter(torch.zeros(states)) if settings.layer is None else None
        self.projection = nn.Linear(width, settings.projection)
        self.lstms = nn.ModuleList()
        outputs = settings.projection
        if settings.kind == "lstm":
            for _ in range(settings.lstm_layers):
                self.lstms.append(
                    nn.LSTM(outputs, settings.units, batch_first=True, bidirectional=True)
                )
                outputs = 2 * settings.units
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(outputs, symbols)

    @property
    def layer_weights(self) -> Tensor:
        """(L + 1,) how much of each hidden state is taken; they sum to 1."""
        if self.mix is not None:
            return self.mix.softmax(dim=0)
        assert self.settings.layer is not None
        weights = torch.zeros(self.states, device=self.linear.weight.device)
        # Behind what enters the first layer.
        weights[self.settings.layer % (self.states - 1) + 1] = 1.0
        return weights

    def mixed(self, hidden: Sequence[Tensor]) -> Tensor:
        """L + 1 hidden states (B, T, D) -> (B, T, D) float32."""
        if self.settings.layer is not None:
            return hidden[1:][self.settings.layer].float()
        stacked = torch.stack(list(hidden)).float()
        return torch.einsum("l,lbtd->btd", self.layer_weights, stacked)

    def forward(
        self, hidden: Sequence[Tensor], frame_counts: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Hidden states -> log_probs.

        Args:
            hidden: L + 1 of (B, T, D).
            frame_counts: (B,) real frames of each row.
            mask: (B, T, D) bool, or broadcast to it, True where the mixture becomes zero.
        """
        with torch.autocast(hidden[0].device.type, enabled=False):
            x_btd = self.mixed(hidden)
            if mask is not None:
                x_btd = x_btd.masked_fill(mask, 0.0)
            x_btd = self.projection(x_btd)
            if self.lstms:
                x_btd = self._recurrent(x_btd, frame_counts)
            return self.linear(x_btd).log_softmax(dim=-1)

    def _recurrent(self, x_btd: Tensor, frame_counts: Tensor) -> Tensor:
        frames = x_btd.shape[1]
        # Packed, so that the backward direction starts at each row's own end.
        counts = frame_counts.cpu().clamp(1, frames)
        for lstm in self.lstms:
            packed = pack_padded_sequence(x_btd, counts, batch_first=True, enforce_sorted=False)
            x_btd, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=frames)
            x_btd = self.dropout(x_btd)
        return x_btd


def spans(counts: Tensor, number: int, widest: int, generator: torch.Generator) -> Tensor:
    """SpecAugment's masks (arXiv 1904.08779): (B, N) bool, N = the largest of ``counts`` (B,).

    Each row gets ``number`` spans of 0 to ``widest`` of its own places; spans may overlap.
    """
    lengths = [int(count) for count in counts]
    mask = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.bool)
    for row, length in enumerate(lengths):
        for _ in range(number if length else 0):
            span = int(torch.randint(min(widest, length) + 1, (), generator=generator))
            start = int(torch.randint(length - span + 1, (), generator=generator))
            mask[row, start : start + span] = True
    return mask


@dataclass
class HeadCheckpoint:
    """A trained head, the symbols it writes, and where it came from."""

    head: ProbeHead
    vocabulary: Vocabulary
    provenance: dict[str, object] = field(default_factory=dict)


def save_head(folder: Path, made: HeadCheckpoint) -> Path:
    """Write a head's folder; files are replaced whole."""
    head = made.head
    description: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "settings": asdict(head.settings),
        "states": head.states,
        "width": head.width,
        "vocabulary": made.vocabulary.to_dict(),
        "provenance": made.provenance,
    }
    return write_whole(folder, WEIGHTS, head, DESCRIPTION, description)


def load_head(folder: Path) -> HeadCheckpoint:
    """Read a head's folder; the head is in eval mode on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, or does not describe a head of this version.
    """
    path = folder / DESCRIPTION
    try:
        described: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(described, dict) or set(described) != _FIELDS:
            raise CheckpointError(f"{path} does not describe a probe's head")
        if (described["format"], described["version"]) != (FORMAT, VERSION):
            raise CheckpointError(
                f"{path} has format {described['format']!r} version {described['version']!r}, this "
                f"rdsdk reads {FORMAT!r} version {VERSION}"
            )
        vocabulary = Vocabulary.from_dict(described["vocabulary"])
        head = ProbeHead(
            HeadSettings(**described["settings"]),
            described["states"],
            described["width"],
            len(vocabulary),
        )
        head.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, ConfigError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder} holds no whole head of a probe: {reason}") from error
    provenance = cast("dict[str, object]", described["provenance"])
    return HeadCheckpoint(head.eval(), vocabulary, provenance)
