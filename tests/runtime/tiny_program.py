"""Small real artefacts of the contract's format: they hear tones.

Each symbol has a frequency that fits whole periods into the 400 samples of a frame, so a tone
switches on exactly one symbol and a test can write a recording whose text, and whose times, it
knows. A random part, small in ``log_probs`` and large in ``hidden``, depends on every entry of
the state: a runtime that loses, swaps or resets the state changes the numbers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 16_000
HOP = 320
RECEPTIVE_FIELD = 400
CHUNK_FRAMES = 4
HISTORY = 3
LEFT = 8
WIDTH = 8
FULL_MARGIN_FRAMES = 15
MAX_SAMPLES = HOP * CHUNK_FRAMES * 100 + 80
FULL_MIN_SAMPLES = RECEPTIVE_FIELD + HOP
SYMBOLS = ("<blank>", "|", *"ABCDEFGH")


def frequency(symbol: int) -> float:
    """The tone of a symbol in Hz, a multiple of 16000 / 400."""
    return 400.0 + 200.0 * symbol


def tones(text: str, frames: int = 4) -> np.ndarray:
    """A recording (S,) of ``text``: ``frames`` of tone a symbol, then as many of silence.

    ``_`` is ``frames`` of silence more, a space is the word boundary.
    """
    pieces = []
    for name in text.replace(" ", "|"):
        time = np.arange(frames * HOP) / SAMPLE_RATE
        if name != "_":
            pieces.append(0.5 * np.sin(2 * np.pi * frequency(SYMBOLS.index(name)) * time))
        pieces.append(np.zeros(frames * HOP))
    return np.concatenate(pieces).astype(np.float32)


def swapped(frames: Tensor) -> Tensor:
    """(1, A, B) -> (1, B, A), copied: arithmetic on a view would forbid some lengths to export."""
    return frames.transpose(1, 2).contiguous()


class Tones(nn.Module):
    """waveform (1, S) -> energy of each symbol's tone (1, V, T) and random features (1, D, T)."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        time = torch.arange(RECEPTIVE_FIELD) / SAMPLE_RATE
        angle = torch.stack([2 * math.pi * frequency(s) * time for s in range(symbols)])
        window = torch.hann_window(RECEPTIVE_FIELD, periodic=True)
        bank = torch.cat([torch.sin(angle), torch.cos(angle)]) * window / 100
        bank[[0, symbols]] = 0.0  # the blank has no tone: it wins where no tone is
        noise = torch.randn(WIDTH, RECEPTIVE_FIELD) / 20
        self.register_buffer("bank", torch.cat([bank, noise])[:, None, None, :])
        self.register_buffer("quiet", 0.05 * functional.one_hot(torch.tensor(0), symbols))
        self.symbols = symbols

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        frames = functional.conv2d(waveform[:, None, None, :], self.bank, stride=(1, HOP))
        sine, cosine, random = frames[:, :, 0].split([self.symbols, self.symbols, WIDTH], dim=1)
        energy = sine * sine + cosine * cosine
        return energy + self.quiet[:, None], torch.tanh(random)


class StreamingProgram(nn.Module):
    """Chunks of frames with a convolution's history and an attention-like left context."""

    def __init__(self, symbols: int, ctc: bool) -> None:
        super().__init__()
        self.tones = Tones(symbols)
        self.history = nn.Conv1d(WIDTH, WIDTH, HISTORY + 1)
        self.keys = nn.Linear(WIDTH, WIDTH)
        self.values = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, symbols)
        self.ctc = ctc

    def forward(
        self, waveform: Tensor, positions: Tensor, keys: Tensor, values: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        energy, frames = map(swapped, self.tones(waveform))
        padded = torch.cat([positions, frames], dim=1)
        frames = frames + torch.tanh(swapped(self.history(swapped(padded))))
        # Every frame of a chunk sees the whole chunk: padding inside a chunk would show.
        chunks = frames.reshape(-1, CHUNK_FRAMES, WIDTH)
        frames = (chunks + chunks.mean(dim=1, keepdim=True)).reshape(1, -1, WIDTH)
        all_keys = torch.cat([keys[0, :, 0], self.keys(frames)], dim=1)
        all_values = torch.cat([values[0, :, 0], self.values(frames)], dim=1)
        all_valid = torch.cat([valid, torch.ones_like(frames[..., 0])], dim=1)
        weight = torch.exp(torch.tanh(all_keys)) * all_valid[..., None]
        top = self._sum(weight * all_values)
        hidden = frames + top / (self._sum(weight) + 1e-6)
        state = (
            padded[:, -HISTORY:],
            all_keys[:, -LEFT:].reshape(1, 1, 1, LEFT, WIDTH),
            all_values[:, -LEFT:].reshape(1, 1, 1, LEFT, WIDTH),
            all_valid[:, -LEFT:],
        )
        if not self.ctc:
            return hidden, *state
        logits = 40 * energy + 0.02 * self.head(hidden)
        return functional.log_softmax(logits, dim=-1), hidden, *state

    def _sum(self, frames: Tensor) -> Tensor:
        kernel = torch.ones(WIDTH, 1, LEFT + 1)
        return swapped(functional.conv1d(swapped(frames), kernel, groups=WIDTH))


class FullContextProgram(nn.Module):
    """A centred convolution of 15 frames either side: exact in windows with that margin."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.tones = Tones(symbols)
        span = 2 * FULL_MARGIN_FRAMES + 1
        self.around = nn.Conv1d(WIDTH, WIDTH, span, padding=FULL_MARGIN_FRAMES)
        self.head = nn.Conv1d(WIDTH, symbols, 1)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        energy, frames = self.tones(waveform)
        hidden = frames + self.around(frames)
        logits = 40 * energy + 0.02 * self.head(hidden)
        return swapped(functional.log_softmax(logits, dim=1)), swapped(hidden)


def card(streaming: bool, **changes: Any) -> dict[str, Any]:
    """The card that fits these programs."""
    shapes = {
        "positions": [1, HISTORY, WIDTH],
        "keys": [1, 1, 1, LEFT, WIDTH],
        "values": [1, 1, 1, LEFT, WIDTH],
        "valid": [1, LEFT],
    }
    names = list(shapes) if streaming else []
    ctc = changes.get("task", "ctc") == "ctc"
    forward = {
        "inputs": ["waveform", *names],
        "outputs": [*(["log_probs"] if ctc else []), "hidden", *names],
        "min_samples": HOP * CHUNK_FRAMES + 80 if streaming else FULL_MIN_SAMPLES,
        "max_samples": MAX_SAMPLES,
    }
    step = forward | {"max_samples": HOP * CHUNK_FRAMES + 80}
    value: dict[str, Any] = {
        "format": "rdsdk",
        "version": 1,
        "name": "tones",
        "language": "en",
        "task": "ctc",
        "architecture": {"width": WIDTH},
        "parameters": 1000,
        "vocabulary": {
            "symbols": list(SYMBOLS),
            "blank": 0,
            "word_boundary": "|",
            "lexicon": None,
        },
        "sample_rate": SAMPLE_RATE,
        "hop_samples": HOP,
        "receptive_field_samples": RECEPTIVE_FIELD,
        "context": {"chunk_frames": CHUNK_FRAMES, "left_frames": LEFT} if streaming else None,
        "lookahead_seconds": 0.08,
        "precision": "fp32",
        "methods": {"forward": forward, "step": step} if streaming else {"forward": forward},
        "state": [{"name": n, "shape": shapes[n]} for n in names],
        "hidden_layers": [1],
        "licence": "Apache-2.0",
        "training_data": ["tones written by the test"],
        "measured": {"wer": 0.0},
        "rdsdk_version": "0.1.0",
    }
    return value | changes


def build(path: Path, *, streaming: bool = True, **changes: Any) -> Path:
    """Lower a program to ``path``; ``changes`` replace fields of its card."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import Dim, export

    value = card(streaming, **changes)
    module, example = eager(streaming, ctc=value["task"] == "ctc")
    if streaming:
        length: Any = HOP * CHUNK_FRAMES * Dim("chunks", min=1, max=100) + 80
    else:
        length = Dim("samples", min=FULL_MIN_SAMPLES, max=MAX_SAMPLES)
    dynamic = ({1: length}, *({} for _ in example[1:]))
    with torch.no_grad():
        exported = {"forward": export(module, example, dynamic_shapes=dynamic, strict=False)}
        if "step" in value["methods"]:
            chunk = (example[0][:, : HOP * CHUNK_FRAMES + 80], *example[1:])
            exported["step"] = export(module, chunk, strict=False)
        program = to_edge_transform_and_lower(
            exported,
            partitioner=[XnnpackPartitioner()],
            constant_methods={"card": json.dumps(value)},
        ).to_executorch()
    path.write_bytes(program.buffer)
    return path


def eager(streaming: bool = True, ctc: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module behind ``build`` with the same weights, and example inputs of twenty chunks."""
    torch.manual_seed(7)
    # Longer than 64 frames: lowering with a shorter example silently plans for 64 at most.
    waveform = torch.randn(1, 20 * HOP * CHUNK_FRAMES + 80) / 10
    if not streaming:
        return FullContextProgram(len(SYMBOLS)).eval(), (waveform,)
    shapes = [entry["shape"] for entry in card(True)["state"]]
    module = StreamingProgram(len(SYMBOLS), ctc).eval()
    return module, (waveform, *(torch.zeros(shape) for shape in shapes))
