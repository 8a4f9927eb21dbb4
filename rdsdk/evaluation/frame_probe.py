"""How much of a model's hidden states a linear layer can use: phones, or any aligned symbols.

As SUPERB does (arXiv 2105.01051, section 3.2): the model is frozen, its layers are mixed with
learnt weights, and one linear layer on the mixture is trained. Here it names the symbol of each
frame, which an alignment gives, instead of writing a sequence: enough to tell representations
apart, in seconds.

Shapes: N frames of all recordings, L layers, D width, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lhotse.cut import Cut
from torch import Tensor, nn

from rdsdk.data.alignment import frame_targets, is_aligned
from rdsdk.data.augment import Timing
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError

Listen = Callable[[Tensor], Sequence[Tensor]]
"""waveform (1, S) -> the hidden states (1, T, D) of each layer."""


@dataclass(frozen=True)
class ProbeResult:
    """Frames of the held-out recordings: how many are named wrongly, and how layers were mixed."""

    frame_error_rate: float
    symbol_frame_error_rate: float
    """Of the frames in which a symbol is spoken, silence left out."""
    frames: int
    layer_weights: tuple[float, ...]


@dataclass(frozen=True)
class ProbeData:
    """Hidden states (L, N, D) and targets (N,) of recordings."""

    hidden: Tensor
    targets: Tensor


def hidden_states(listen: Listen, cuts: Iterable[Cut], vocabulary: Vocabulary) -> ProbeData:
    """What a frozen model says of aligned recordings, where it says it (a GPU, say).

    Raises:
        DataError: a recording has no alignment, or there is none at all.
    """
    states, targets = [], []
    for cut in cuts:
        if not is_aligned(cut):
            raise DataError(f"{cut.id} has no alignment; make one (rdsdk prepare phones)")
        with torch.no_grad():
            layers = listen(torch.from_numpy(load_waveform(cut))[None])
        # In half the memory: hours of frames of a dozen layers.
        states.append(torch.stack([layer[0] for layer in layers]).to(torch.float16))
        targets.append(frame_targets(cut, vocabulary, states[-1].shape[1], Timing()))
    if not states:
        raise DataError("the probe got no recordings")
    hidden = torch.cat(states, dim=1)
    return ProbeData(hidden, torch.cat(targets).to(hidden.device))


class Probe(nn.Module):
    """Layers (L, B, D) -> logits (B, V): a softmax over layers, then one linear layer."""

    def __init__(self, layers: int, width: int, symbols: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.linear = nn.Linear(width, symbols)

    def forward(self, hidden_lbd: Tensor) -> Tensor:
        # Each layer at the same scale, or the mixing weights would be about scale.
        normed = F.layer_norm(hidden_lbd, hidden_lbd.shape[-1:])
        return self.linear(torch.einsum("l,lbd->bd", self.mix.softmax(dim=0), normed))


def trained_probe(
    train: ProbeData,
    vocabulary: Vocabulary,
    *,
    steps: int = 600,
    batch_frames: int = 4096,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> Probe:
    """A probe that learnt from ``train``."""
    layers, frames, width = train.hidden.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Probe(layers, width, len(vocabulary)).to(train.hidden.device)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = torch.randint(frames, (min(batch_frames, frames),), generator=generator)
        chosen = chosen.to(train.hidden.device)
        loss = F.cross_entropy(model(train.hidden[:, chosen].float()), train.targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def errors_of(model: Probe, held_out: ProbeData, vocabulary: Vocabulary) -> ProbeResult:
    """What a probe names wrongly of ``held_out``."""
    with torch.no_grad():
        named = torch.cat(
            [model(part.float()).argmax(dim=1) for part in held_out.hidden.split(8192, dim=1)]
        )
    of_frames, of_symbols = frame_error_rates(named, held_out.targets, vocabulary)
    layer_weights = tuple(model.mix.softmax(dim=0).tolist())
    return ProbeResult(of_frames, of_symbols, len(named), layer_weights)


def frame_error_rates(
    named: Tensor, targets: Tensor, vocabulary: Vocabulary
) -> tuple[float, float]:
    """Of frames (N,): the share that is named wrongly, and that of those with a symbol spoken."""
    wrong = named != targets
    spoken = targets != vocabulary.blank
    return float(wrong.float().mean()), float(wrong[spoken].float().mean())


def probe(
    train: ProbeData, held_out: ProbeData, vocabulary: Vocabulary, *, steps: int = 600
) -> ProbeResult:
    """Train a probe on ``train`` and count its errors on ``held_out``."""
    return errors_of(trained_probe(train, vocabulary, steps=steps), held_out, vocabulary)
