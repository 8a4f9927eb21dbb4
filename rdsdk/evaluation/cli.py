"""``rdsdk evaluate``: error rates of an artefact or a checkpoint on one corpus or several."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rdsdk.data.manifest import read_cuts
from rdsdk.data.word_spans import read_word_spans
from rdsdk.decoding.arguments import add_decoding_arguments, decoding
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ConfigError, DataError
from rdsdk.evaluation import conditions, report
from rdsdk.evaluation.evaluate import Evaluation, evaluate
from rdsdk.evaluation.transcribers import load_word_transcriber, own_search_of
from rdsdk.outputs import require_file

GROUPS = ("speaker", "length")
ALL_FILES = "**/*"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: tables, or JSON, on the output; 0 if all was evaluated.

    Raises:
        RdsdkError: a model, corpus, condition or recording is not usable.
    """
    arguments = _parser().parse_args(argv)
    for file in (arguments.hypotheses, arguments.figure):
        if file is not None:
            require_file(file)
    if arguments.figure is not None:
        report.require_drawable(arguments.figure)
    names = list(arguments.condition)
    if arguments.robustness:
        # Without recordings of noise the standard conditions take what needs none.
        standard = [
            name if arguments.noise else name.replace("noise:", "hiss:")
            for name in conditions.STANDARD
        ]
        names = [conditions.CLEAN, *standard, *names]
    noisy = any(name.startswith("noise:") for name in names)
    if not noisy and (arguments.noise is not None or arguments.noise_pattern != ALL_FILES):
        raise ConfigError(
            "--noise and --noise-pattern go with --robustness or with --condition noise:N, and "
            "there is neither"
        )
    # Before the model is loaded, so that a wrong path or name is told at once.
    heard_under = conditions.conditions(
        names or [conditions.CLEAN], arguments.noise, arguments.noise_pattern
    )
    corpora = [(source, read_cuts(source)) for source in arguments.data]
    said_when = None if arguments.word_times is None else read_word_spans(arguments.word_times)
    if said_when is not None and not any(
        cut.id in said_when for _, cuts in corpora for cut in cuts
    ):
        raise DataError(
            f"{arguments.word_times} tells of {len(said_when)} utterances when their words are "
            f"said, and of none in {', '.join(arguments.data)}; are their ids the same?"
        )
    own = own_search_of(arguments.model, arguments.threads)
    beam, hotwords = decoding(arguments, own)
    transcribe = load_word_transcriber(
        arguments.model,
        arguments.threads,
        arguments.block_ms,
        arguments.chunk_frames,
        beam,
        hotwords,
        arguments.together,
    )
    evaluations = [
        evaluate(transcribe, cuts, source, arguments.normalise, under, said_when)
        for under in heard_under
        for source, cuts in corpora
    ]
    model = " + ".join([arguments.model, *arguments.together])
    if arguments.json:
        values = [evaluation.to_dict(arguments.by) for evaluation in evaluations]
        used = beam or own
        how = asdict(used) if isinstance(used, BeamSettings) else None
        row = {
            "model": arguments.model,
            "together": arguments.together,
            "beam": how,
            "hotwords": hotwords,
            "results": values,
        }
        print(json.dumps(row, indent=2, default=str))  # files are paths
    else:
        _show(model, evaluations, arguments.by)
    if arguments.hypotheses is not None:
        report.write_hypotheses(arguments.hypotheses, evaluations)
    if arguments.figure is not None:
        report.draw_rates(arguments.figure, model, evaluations)
    return 0


def _show(model: str, evaluations: Sequence[Evaluation], groups: Sequence[str]) -> None:
    console = report.wide_console()
    console.print(report.rates_table(model, evaluations))
    if any(evaluation.times.starts for evaluation in evaluations):
        console.print(report.times_table(model, evaluations))
    for evaluation in evaluations:
        for group in groups:
            console.print(report.group_table(evaluation, group))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdsdk evaluate", description=__doc__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .pte file, a bundled name, a checkpoint folder, or pocketsphinx as a peer",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="a JSONL manifest, a LibriSpeech folder, lhotse cuts or a Shar folder",
    )
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    parser.add_argument(
        "--hypotheses", type=Path, metavar="FILE", help="write what was recognised, JSONL"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="PNG", help="draw the error rates with their intervals"
    )
    parser.add_argument(
        "--by",
        action="append",
        choices=GROUPS,
        default=[],
        help="list the rates of each speaker, or of recordings of similar length; may be repeated",
    )
    parser.add_argument(
        "--normalise",
        action="store_true",
        help="compare upper-case letters, digits and apostrophes only",
    )
    parser.add_argument(
        "--word-times",
        type=Path,
        metavar="FILE",
        help="also compare when words are said: the word_spans.jsonl of rdsdk prepare phones "
        "(lhotse cuts with word alignments need none)",
    )
    parser.add_argument("--threads", type=int, help="threads of the model")
    heard = parser.add_argument_group("how it is heard")
    heard.add_argument(
        "--block-ms",
        type=_milliseconds,
        metavar="MS",
        help="through a live stream, in blocks of so many milliseconds (artefacts)",
    )
    heard.add_argument(
        "--chunk-frames",
        type=int,
        metavar="N",
        help="frames of 20 ms heard at once, of a streaming checkpoint; 0 for full context",
    )
    heard.add_argument(
        "--together",
        action="append",
        default=[],
        metavar="FOLDER",
        help="the mean of what MODEL and this checkpoint say of each frame, which hear each "
        "recording as a whole; may be repeated",
    )
    add_decoding_arguments(parser)
    sound = parser.add_argument_group("what is done to the recordings")
    sound.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="KIND[:N]",
        help=f"may be repeated: {conditions.described()}",
    )
    sound.add_argument(
        "--robustness",
        action="store_true",
        help=f"clean and {', '.join(conditions.STANDARD)}; hiss for noise without --noise",
    )
    sound.add_argument("--noise", metavar="FOLDER", help="recordings of noise")
    sound.add_argument(
        "--noise-pattern", default=ALL_FILES, metavar="GLOB", help="which of them (default: all)"
    )
    return parser


def _milliseconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value
