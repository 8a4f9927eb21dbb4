"""A student made larger, which at first changes nothing of what it says, or smaller.

New weights are random where they read and zero where they write (function preserving growth;
T. Chen et al. 2016, Net2Net), so that learning goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rdsdk.errors import ConfigError
from rdsdk.models.student import Student


def with_energies(student: Student, mel_bands: int) -> Student:
    """A copy that hears log-mel energies of so many bands too, and at first makes nothing of them.

    Raises:
        ConfigError: it hears energies already, in another number of bands.
    """
    config = student.config
    if config.mel_bands not in (0, mel_bands):
        raise ConfigError(
            f"mel_bands is {mel_bands}, and the student hears {config.mel_bands} bands already"
        )
    hearing = Student(
        replace(config, mel_bands=mel_bands), student.symbols, student.projection_width
    )
    hearing.load_state_dict(hearing.state_dict() | student.state_dict())
    return hearing


def widened(student: Student, ffn: int) -> Student:
    """A copy with ``ffn`` units in each feed-forward, which says the same.

    Raises:
        ConfigError: that is fewer than it has.
    """
    config = student.config
    if ffn < config.ffn:
        raise ConfigError(f"ffn is {ffn}, expected at least the {config.ffn} that the student has")
    wider = Student(replace(config, ffn=ffn), student.symbols, student.projection_width)
    weights = wider.state_dict()
    with torch.no_grad():
        for name, old in student.state_dict().items():
            new = weights[name]
            if name.endswith("ffn_out.weight"):
                new.zero_()
            new[tuple(slice(size) for size in old.shape)] = old
    return wider


def narrowed(student: Student, ffn: int) -> Student:
    """A copy with the ``ffn`` units of each feed-forward that say most, to learn on with less.

    What a unit says grows with the weights it reads by and those it writes with, so those with the
    least product of both lengths go (as H. Li et al. 2017, arXiv 1608.08710, do with filters).

    Raises:
        ConfigError: that is none, or more than it has.
    """
    config = student.config
    if not 0 < ffn <= config.ffn:
        raise ConfigError(f"ffn is {ffn}, expected 1 to the {config.ffn} that the student has")
    narrower = Student(replace(config, ffn=ffn), student.symbols, student.projection_width)
    weights = student.state_dict()
    for layer in range(config.layers):
        reads, bias, writes = (
            f"encoder.layers.{layer}.{name}"
            for name in ("ffn_in.weight", "ffn_in.bias", "ffn_out.weight")
        )
        said = weights[reads].norm(dim=1) * weights[writes].norm(dim=0)
        kept = said.topk(ffn).indices.sort().values
        weights[reads], weights[bias] = weights[reads][kept], weights[bias][kept]
        weights[writes] = weights[writes][:, kept]
    narrower.load_state_dict(weights)
    return narrower


def doubled(student: Student, noise: float = 0.5) -> Student:
    """A copy of twice the width, with heads twice as wide, which says the same.

    Each channel is there twice, which leaves the layer norms as they were. Who reads both reads
    half of each, give or take the same random amount: it cancels out until the two differ, and lets
    them learn different things (Net2Net, section 2.2, with its noise made harmless).

    Args:
        noise: deviation of the random amounts, in deviations of the weights that they are added to.

    Raises:
        ConfigError: the extractor's channels are twice the width: nothing would be between them.
    """
    config = student.config
    channels = config.convs[-1].channels
    if channels == 2 * config.width:
        raise ConfigError(
            f"the extractor gives {channels} channels, to which a student of width {config.width} "
            "cannot be doubled; widen the feed-forwards (ffn) instead"
        )
    wider = Student(
        replace(config, width=2 * config.width, position_groups=2 * config.position_groups),
        student.symbols,
        student.projection_width,
    )
    weights, said = wider.state_dict(), student.state_dict()
    if channels == config.width:
        said["encoder.projection.weight"] = torch.eye(channels)
        said["encoder.projection.bias"] = torch.zeros(channels)
    with torch.no_grad():
        for name, old in said.items():
            new, module = weights[name], name.split(".")[-2]
            # Both copies of a head's channels lie in that head.
            heads = config.heads if module in ("query", "key", "value") else 1
            grown = _twice(old, heads) if len(new) > len(old) else old
            if old.ndim > 1 and new.shape[1] > old.shape[1]:
                grown = _read_twice(grown, config.heads if module == "output" else 1, noise)
            if module == "query":
                # Products of queries and keys are sums of twice as many, and scaled by the width.
                grown = grown / 2**0.5
            elif name.endswith("weight.original0"):
                # The length of all weights of a tap, of which there are twice as many.
                grown = grown * 2**0.5
            new.copy_(grown)
    return wider


def _twice(rows: Tensor, heads: int) -> Tensor:
    """(O, ...) -> (2 O, ...): the rows of each head, and the same again behind them."""
    rows_per_head = rows.unflatten(0, (heads, -1))
    return torch.cat([rows_per_head, rows_per_head], dim=1).flatten(0, 1)


def _read_twice(weight_oi: Tensor, heads: int, noise: float) -> Tensor:
    """(O, I) -> (O, 2 I): half of each of two, give or take the same."""
    apart = noise * weight_oi.std() * torch.randn_like(weight_oi)
    both = [(weight_oi / 2 + sign * apart).unflatten(1, (heads, -1)) for sign in (1, -1)]
    return torch.cat(both, dim=2).flatten(1)
