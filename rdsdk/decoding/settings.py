"""What a beam search may do: how wide it is, and how much a language model counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from rdsdk.errors import ConfigError


@dataclass(frozen=True)
class BeamSettings:
    """Settings of ``BeamDecoder``. All scores are in nats (natural logarithms).

    A hypothesis scores log P(alignment | frames) of its likeliest alignment, plus ``lm_weight``
    times log P(words), plus ``word_score`` for each word and ``hotword_boost`` for each symbol of a
    hotword.

    Args:
        lm: an n-gram language model, KenLM's binary or ARPA; None searches without one.
        lexicon: how words are pronounced (CMUdict's format), for a model whose symbols are phones;
            only these words come out, with a language model those that it knows too.
        beam_size: hypotheses kept after each frame.
        beam_threshold: hypotheses so much worse than the best are dropped.
        symbols_per_frame: only the likeliest so many symbols of a frame are tried; None tries all.
        lm_weight: with what the logarithm of the language model is multiplied.
        word_score: for each word, where words are spelled and come from a lexicon or a language
            model; above zero, it evens out that a language model prefers few words.
        hotword_boost: for each symbol of a hotword. Twice the default begins to invent hotwords
            where nobody said them.
        sum_alignments: score log P(symbols | frames) instead, the sum over all alignments, as CTC
            defines it. A model that is not quite sure of its silences then finds letters in long
            ones. What ``rnnlm`` weighs again is then the sum over the alignments of each word to
            the frames where it lies. Without effect on hotwords where words are free.
        rnnlm: a recurrent word language model (``rdsdk prepare rnnlm``), which weighs again what
            was found with ``lm`` and ``lexicon``; it needs both.
        rnnlm_share: how much of the language model's weight is the recurrent one's, 0 to 1.

    Raises:
        ConfigError: a value is out of range, or ``rnnlm`` is given without what it needs.
    """

    lm: str | Path | None = None
    lexicon: str | Path | None = None
    beam_size: int = 50
    beam_threshold: float = 25.0
    symbols_per_frame: int | None = None
    lm_weight: float = 0.5
    word_score: float = 0.0
    hotword_boost: float = 1.5
    sum_alignments: bool = False
    rnnlm: str | Path | None = None
    rnnlm_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("beam_size", "symbols_per_frame"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")
        if not self.beam_threshold > 0:
            raise ConfigError(f"beam_threshold is {self.beam_threshold}, expected more than 0 nats")
        for name in ("lm_weight", "hotword_boost"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}, expected 0 or more")
        if not 0 <= self.rnnlm_share <= 1:
            raise ConfigError(f"rnnlm_share is {self.rnnlm_share}, expected 0 to 1")
        if self.rnnlm is not None and (self.lm is None or self.lexicon is None):
            raise ConfigError(
                "a recurrent language model weighs what an n-gram language model and a lexicon "
                "have found; give lm and lexicon too, or leave rnnlm out"
            )
        if not math.isfinite(self.word_score):
            raise ConfigError(f"word_score is {self.word_score}, expected a number of nats")

    @classmethod
    def from_dict(cls, value: object) -> BeamSettings:
        """Read what ``to_dict`` wrote.

        Raises:
            ConfigError: a name is unknown, a value has the wrong type or is out of range, or a
                file is not named without its folder.
        """
        if not isinstance(value, Mapping):
            raise ConfigError(f"the settings of a search are {value!r}, expected an object")
        unknown = sorted(value.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"the settings of a search have an unknown {unknown[0]!r}")
        for name, got in value.items():
            if not isinstance(got, _KINDS[name]) or isinstance(got, bool) != (_KINDS[name] is bool):
                raise ConfigError(f"{name} is {got!r}, which has the wrong type")
            if name in _FILES and (Path(got).name != got or got == ".."):
                raise ConfigError(f"{name} is {got!r}, expected the name of a file, no folder")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, ready for JSON; files by their names alone."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {
            field.name: values[field.name]
            for field in fields(self)
            if values[field.name] != field.default
        }
        return {name: Path(got).name if name in _FILES else got for name, got in given.items()}

    def beside(self, folder: Path) -> BeamSettings:
        """The same with its files looked for in ``folder``."""
        files = {name: getattr(self, name) for name in _FILES}
        return replace(
            self, **{name: folder / file for name, file in files.items() if file is not None}
        )

    def files(self) -> list[Path]:
        """The files it needs."""
        return [Path(file) for name in _FILES if (file := getattr(self, name)) is not None]


Search = BeamSettings | Literal["greedy"]
"""How text is found: a beam search, or the likeliest symbols."""

_FILES = ("lm", "lexicon", "rnnlm")
_KINDS: dict[str, Any] = {
    "lm": str,
    "lexicon": str,
    "rnnlm": str,
    "beam_size": int,
    "beam_threshold": (int, float),
    "symbols_per_frame": int,
    "lm_weight": (int, float),
    "rnnlm_share": (int, float),
    "word_score": (int, float),
    "hotword_boost": (int, float),
    "sum_alignments": bool,
}
