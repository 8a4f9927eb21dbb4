"""What is done to recordings before they are recognised: noise, rooms, lines, other speeds.

A condition is named on the command line as KIND or KIND:AMOUNT. What it does to a recording depends
on the recording's id and on the seed alone, so that models are compared on the same sound.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdsdk.data import acoustics
from rdsdk.data.noise import load_noises, noise_stretch
from rdsdk.errors import ConfigError

Waveform = NDArray[np.float32]

CLEAN = "clean"
STANDARD = (
    *("noise:20", "noise:10", "noise:5", "noise:0"),
    *("reverb:0.3", "reverb:0.8", "narrow", "telephone", "opus"),
    *("speed:0.9", "speed:1.1", "gain:-20"),
)
"""What ``--robustness`` asks for."""

_AMOUNTS: dict[str, tuple[str, float, float]] = {
    "noise": ("dB between speech and noise", -20, 60),
    "hiss": ("dB between speech and hiss", -20, 60),
    "reverb": ("seconds a room takes to fall silent", 0.05, 5),
    "speed": ("times as fast, pitch included", 0.5, 2),
    "tempo": ("times as fast, at the same pitch", 0.5, 2),
    "gain": ("dB louder, negative for quieter", -80, 40),
}
_PLAIN = ("narrow", "telephone", "opus")


@dataclass(frozen=True)
class Condition:
    """A named change of a recording: ``apply(waveform, generator)`` gives another waveform."""

    name: str
    apply: Callable[[Waveform, np.random.Generator], Waveform]

    def heard(self, waveform: Waveform, utterance: str, seed: int = 0) -> Waveform:
        """The waveform (S,) of an utterance under this condition: (S',), in [-1, 1]."""
        if not len(waveform):
            return waveform
        rng = np.random.default_rng([seed, zlib.crc32(utterance.encode())])
        return np.clip(self.apply(waveform, rng), -1.0, 1.0).astype(np.float32)


def described() -> str:
    """The kinds of conditions, for a help text."""
    kinds = [f"{kind}:N ({what})" for kind, (what, _, _) in _AMOUNTS.items()]
    return ", ".join([CLEAN, *kinds, *_PLAIN])


def condition(name: str, noise: str | Path | None = None, noise_pattern: str = "**/*") -> Condition:
    """A condition by its name, as ``noise:10``.

    Args:
        noise: a folder of recordings, which ``noise`` needs; ``noise_pattern`` selects some.

    Raises:
        ConfigError: there is no such kind, its amount is missing, no number or out of range, or
            noise has no folder.
        DataError: the folder holds no usable noise.
    """
    kind, _, text = name.partition(":")
    if kind == CLEAN and not text:
        return Condition(name, lambda waveform, rng: waveform)
    if kind in _PLAIN and not text:
        return Condition(name, _plain(kind))
    if kind not in _AMOUNTS:
        raise ConfigError(f"unknown condition {name!r}; known: {described()}")
    return Condition(name, _measured(kind, _amount(name, kind, text), noise, noise_pattern))


def conditions(
    names: Sequence[str], noise: str | Path | None = None, noise_pattern: str = "**/*"
) -> list[Condition]:
    """Several conditions by name, each once, in order; see ``condition``."""
    return [condition(name, noise, noise_pattern) for name in dict.fromkeys(names)]


def _amount(name: str, kind: str, text: str) -> float:
    what, low, high = _AMOUNTS[kind]
    try:
        amount = float(text)
    except ValueError:
        raise ConfigError(f"the condition {name!r} needs {kind}:N, {what}, a number") from None
    if not low <= amount <= high:
        raise ConfigError(f"{name}: {what} must be from {low:g} to {high:g}")
    return amount


def _plain(kind: str) -> Callable[[Waveform, np.random.Generator], Waveform]:
    changes: dict[str, Callable[[Waveform], Waveform]] = {
        "narrow": lambda waveform: acoustics.band_limit(waveform, 8_000),
        "telephone": acoustics.telephone,
        "opus": acoustics.opus,
    }
    change = changes[kind]
    return lambda waveform, rng: change(waveform)


def _measured(
    kind: str, amount: float, noise: str | Path | None, noise_pattern: str
) -> Callable[[Waveform, np.random.Generator], Waveform]:
    if kind == "noise":
        if noise is None:
            raise ConfigError(
                "the condition noise needs a folder of recordings: --noise FOLDER (or take hiss)"
            )
        noises = load_noises(str(noise), noise_pattern)

        def mixed(waveform: Waveform, rng: np.random.Generator) -> Waveform:
            chosen, place = noises[int(rng.integers(len(noises)))], float(rng.random())
            return acoustics.add_noise(
                waveform, noise_stretch(chosen, len(waveform), place), amount
            )

        return mixed
    if kind == "hiss":
        return lambda waveform, rng: acoustics.add_noise(
            waveform, acoustics.hiss(rng, len(waveform)), amount
        )
    if kind == "reverb":
        return lambda waveform, rng: acoustics.reverberate(waveform, rng, amount)
    if kind == "speed":
        return lambda waveform, rng: acoustics.resample_voice(waveform, amount)
    if kind == "tempo":
        return lambda waveform, rng: acoustics.change_tempo(waveform, amount)
    return lambda waveform, rng: waveform * np.float32(10 ** (amount / 20))
