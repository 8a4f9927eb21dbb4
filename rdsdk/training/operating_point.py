"""Where a recogniser stands between missing words and inventing them.

CTC training on much sound without words leaves the blank too likely. Its bias is one number of the
head; here it is chosen on development data, among those that invent words in few recordings without
any, and written into a checkpoint: ``rdsdk tune operating-point --help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.evaluation.hearing import heard_log_probs
from rdsdk.evaluation.transcribers import text_of
from rdsdk.evaluation.wer import ErrorRates, error_rates
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint

BIASES = (0.0, -0.25, -0.5, -0.75, -1.0, -1.25, -1.5, -1.75, -2.0, -2.5, -3.0)


@dataclass(frozen=True)
class Point:
    """What one bias, added to the blank's logit, gives on the development data."""

    blank_bias: float
    rates: ErrorRates


def biased(source: Checkpoint, blank_bias: float) -> Checkpoint:
    """A copy with ``blank_bias`` added to the blank's logit."""
    assert source.vocabulary is not None
    student = source.student.copy()
    assert student.ctc_head is not None
    with torch.no_grad():
        student.ctc_head.linear.bias[source.vocabulary.blank] += blank_bias
    provenance = {**source.provenance, "blank_bias": blank_bias}
    return replace(source, student=student, provenance=provenance)


def biased_text(log_probs: Tensor, vocabulary: Vocabulary, blank_bias: float) -> str:
    """log_probs (T, V) -> text, with ``blank_bias`` added to the blank's logit."""
    shifted = log_probs.clone()
    shifted[:, vocabulary.blank] += blank_bias
    return text_of(shifted.log_softmax(dim=-1), vocabulary)


def measure(
    source: Checkpoint, manifests: Sequence[Path], biases: Sequence[float] = BIASES
) -> list[Point]:
    """Error rates of every bias, from one pass over the recordings.

    Raises:
        DataError: a manifest cannot be used, or a recording has no transcript.
        ConfigError: the checkpoint has no vocabulary.
    """
    vocabulary, student = source.vocabulary, source.student.eval()
    if vocabulary is None:
        raise ConfigError("this checkpoint writes no text; fine-tune it first")
    references, heard = [], []
    cuts = list(read_cuts([str(path) for path in manifests]))
    for cut in track(cuts, "listening", console=Console(stderr=True)):
        text = transcript(cut)
        if text is None:
            raise DataError(f"{cut.id} has no transcript; an empty one says that nobody speaks")
        references.append(text)
        heard.append(heard_log_probs(student, load_waveform(cut)))
    return [
        Point(
            bias,
            error_rates(references, [biased_text(frames, vocabulary, bias) for frames in heard]),
        )
        for bias in biases
    ]


def word_error_rate(rates: ErrorRates) -> float:
    """Over the recordings with words alone; what is invented elsewhere is counted apart."""
    counts = [count for count in rates.word_counts if count.reference]
    return sum(count.errors for count in counts) / sum(count.reference for count in counts)


def choose(points: Sequence[Point], most_false: float) -> Point:
    """The fewest word errors among those with words in at most ``most_false`` of the recordings
    without any.

    Raises:
        ConfigError: none is so quiet; says what there is. Or no recording has words.
    """
    if not any(count.reference for count in points[0].rates.word_counts):
        raise ConfigError("no recording has words, so that none can be missed; add some that have")
    quiet = [point for point in points if point.rates.false_word_rate <= most_false]
    if not quiet:
        least = min(point.rates.false_word_rate for point in points)
        raise ConfigError(
            f"no bias keeps invented words in {most_false:.1%} of the recordings without any; the "
            f"least is {least:.1%}. Allow more with --most-false, or train on more such sound"
        )
    return min(quiet, key=lambda point: (word_error_rate(point.rates), -point.blank_bias))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, choose, write; 0 when the checkpoint is there, 2 when something was wrong."""
    parser = argparse.ArgumentParser(
        prog="rdsdk tune operating-point",
        description="Choose the blank's bias on development data and write it into a checkpoint.",
    )
    parser.add_argument("checkpoint", type=Path, help="a folder with model.json, or a bundled name")
    parser.add_argument("dev", type=Path, nargs="+", help="manifests; text empty: no words there")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--chunk-frames", type=int, help="another chunk than the student's own")
    parser.add_argument(
        "--most-false",
        type=float,
        default=0.03,
        help="share of recordings without words that may get any (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        source = checkpoint.load(options.checkpoint)
        if options.chunk_frames is not None:
            source = checkpoint.in_context(source, options.chunk_frames, None)
        points = measure(source, options.dev)
        Console().print(table(points))
        chosen = choose(points, options.most_false)
    except RdsdkError as error:
        tell_error(error)
        return 2
    checkpoint.save(options.output, biased(source, chosen.blank_bias))
    print(f"{options.output}: blank bias {chosen.blank_bias:+g}")
    return 0


def table(points: Sequence[Point]) -> Table:
    """Bias, word error rate where there are words, share of false recordings else."""
    made = Table("blank bias", "WER", "false recordings")
    for point in points:
        rates = point.rates
        wer = word_error_rate(rates) if rates.words.reference else float("nan")
        made.add_row(f"{point.blank_bias:+.2f}", f"{wer:.1%}", f"{rates.false_word_rate:.1%}")
    return made


if __name__ == "__main__":
    sys.exit(main())
