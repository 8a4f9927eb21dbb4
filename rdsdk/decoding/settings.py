"""What a beam search may do: how wide it is, and how much a language model counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

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
            ones. Without effect on hotwords where words are free.

    Raises:
        ConfigError: a value is out of range.
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
        if not math.isfinite(self.word_score):
            raise ConfigError(f"word_score is {self.word_score}, expected a number of nats")
