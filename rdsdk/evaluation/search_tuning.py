"""How much a language model, a word and a model's habits count: chosen on development data.

A beam search adds up what the model says of the frames, ``lm_weight`` times what the language model
says of the words, and ``word_score`` for each word. A model that classifies frames says common
symbols, silence above all, too readily; a share of the logarithm of how common they are is taken
off (the scaled likelihoods of hybrid recognisers: H. Bourlard and N. Morgan 1994). That share is a
part of the model, a bias of its head, and is written into a checkpoint; the weights are options.

With a recurrent language model (``--rnnlm``) its share is a fourth. They are varied in turn, each
until no step helps: ``rdsdk tune search --help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.telling import tell_error
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.arguments import add_search_arguments, search
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.evaluation.hearing import heard_log_probs
from rdsdk.evaluation.transcribers import text_of
from rdsdk.evaluation.wer import error_rates
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint

LADDERS: dict[str, tuple[float, ...]] = {
    "prior_share": (0.0, 0.25, 0.5, 0.75, 1.0),
    "lm_weight": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0),
    "word_score": (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
    "rnnlm_share": (0.0, 0.25, 0.5, 0.75, 1.0),
}
"""The values that are tried of each, in order; the last with a recurrent language model."""


@dataclass(frozen=True)
class Setting:
    """One choice of them; ``rnnlm_share`` is None where there is no recurrent language model."""

    prior_share: float = 0.0
    lm_weight: float = 0.5
    word_score: float = 0.0
    rnnlm_share: float | None = None


def symbol_prior(heard: Sequence[Tensor]) -> Tensor:
    """log of how much of the time the model gives to each symbol, (V,), from log_probs (T, V)."""
    return torch.cat(list(heard)).exp().mean(dim=0).clamp(min=1e-6).log()


def without_prior(log_probs: Tensor, prior: Tensor, share: float) -> Tensor:
    """log_probs (T, V) with a share of the prior taken off; probabilities again."""
    return (log_probs - share * prior).log_softmax(dim=-1)


def climb(measure: Callable[[Setting], float], start: Setting) -> dict[Setting, float]:
    """Every setting that was tried and its error rate, from ``start`` on: neighbours on one ladder
    at a time, as long as they are better, until none on any ladder is."""
    tried = {start: measure(start)}
    best, moved = start, True
    while moved:
        moved = False
        for name, ladder in LADDERS.items():
            for direction in (1, -1):
                while (step := _next(best, name, ladder, direction)) is not None:
                    if step not in tried:
                        tried[step] = measure(step)
                    if tried[step] >= tried[best]:
                        break
                    best, moved = step, True
    return tried


def _next(setting: Setting, name: str, ladder: Sequence[float], direction: int) -> Setting | None:
    """The neighbour on a ladder; None past its end."""
    value = getattr(setting, name)
    if value is None:
        return None
    rest = [rung for rung in ladder if (rung - value) * direction > 0]
    if not rest:
        return None
    return replace(setting, **{name: min(rest, key=lambda rung: abs(rung - value))})


def hear(
    source: Checkpoint, manifests: Sequence[Path], every: int
) -> tuple[list[str], list[Tensor]]:
    """The texts and the log_probs (T, V) of every ``every``-th recording.

    Raises:
        DataError: a manifest cannot be used, or a recording has no transcript.
    """
    references, heard = [], []
    cuts = list(read_cuts([str(path) for path in manifests]))[::every]
    for cut in track(cuts, "listening", console=Console(stderr=True)):
        text = transcript(cut)
        if text is None:
            raise DataError(f"{cut.id} has no transcript; leave unlabelled recordings out")
        references.append(text)
        heard.append(heard_log_probs(source.student.eval(), load_waveform(cut)))
    return references, heard


def rebiased(source: Checkpoint, prior: Tensor, share: float) -> Checkpoint:
    """A copy whose head takes ``share`` of the prior off by itself."""
    student = source.student.copy()
    assert student.ctc_head is not None
    with torch.no_grad():
        student.ctc_head.linear.bias.sub_(share * prior)
    return replace(source, student=student, provenance={**source.provenance, "prior_share": share})


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, tell, write; 0 when done, 2 when something was wrong."""
    options = parser().parse_args(arguments)
    try:
        _tune(options)
    except RdsdkError as error:
        tell_error(error)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk tune search",
        description="Choose the weights of a beam search on development data.",
    )
    made.add_argument("checkpoint", type=Path, help="a folder with model.json, or a bundled name")
    made.add_argument("dev", type=Path, nargs="+", help="manifests of recordings with texts")
    made.add_argument(
        "-o", "--output", type=Path, help="write the checkpoint with the chosen share taken off"
    )
    made.add_argument(
        "--every", type=int, default=1, metavar="N", help="listen to every N-th recording only"
    )
    made.add_argument("--chunk-frames", type=int, help="another chunk than the student's own")
    add_search_arguments(made.add_argument_group("the search, and where to begin"))
    return made


def _tune(options: argparse.Namespace) -> None:
    if options.every < 1:
        raise ConfigError(f"--every must be at least 1, got {options.every}")
    settings = search(options)
    if settings is None or settings.lm is None:
        raise ConfigError("there is nothing to weigh without a language model; give one with --lm")
    source = checkpoint.load(options.checkpoint)
    if options.chunk_frames is not None:
        source = checkpoint.in_context(source, options.chunk_frames, None)
    vocabulary = source.vocabulary
    if vocabulary is None:
        raise ConfigError("this checkpoint writes no text; fine-tune it first")
    references, heard = hear(source, options.dev, options.every)
    prior, output = symbol_prior(heard), Console(soft_wrap=True)

    def measure(setting: Setting) -> float:
        beam = at(settings, setting)
        texts = [
            text_of(without_prior(frames, prior, setting.prior_share), vocabulary, beam)
            for frames in heard
        ]
        wer = error_rates(references, texts).wer
        output.print(f"{wer:.1%}  {setting}", highlight=False)
        return wer

    share = None if settings.rnnlm is None else settings.rnnlm_share
    tried = climb(measure, Setting(0.0, settings.lm_weight, settings.word_score, share))
    output.print(table(tried))
    best = min(tried, key=lambda setting: tried[setting])
    if options.output is not None:
        checkpoint.save(options.output, rebiased(source, prior, best.prior_share))
        output.print(f"{options.output}: {best.prior_share:g} of the prior taken off")
    also = "" if best.rnnlm_share is None else f" --rnnlm-share {best.rnnlm_share:g}"
    output.print(f"--lm-weight {best.lm_weight:g} --word-score={best.word_score:g}{also}")


def at(settings: BeamSettings, setting: Setting) -> BeamSettings:
    """A search with the weights of a setting."""
    share = settings.rnnlm_share if setting.rnnlm_share is None else setting.rnnlm_share
    return replace(
        settings, lm_weight=setting.lm_weight, word_score=setting.word_score, rnnlm_share=share
    )


def table(tried: dict[Setting, float]) -> Table:
    """The best ten, best first."""
    made = Table("prior share", "lm weight", "word score", "rnnlm share", "WER")
    for setting in sorted(tried, key=lambda setting: tried[setting])[:10]:
        made.add_row(
            f"{setting.prior_share:g}",
            f"{setting.lm_weight:g}",
            f"{setting.word_score:g}",
            "-" if setting.rnnlm_share is None else f"{setting.rnnlm_share:g}",
            f"{tried[setting]:.1%}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
