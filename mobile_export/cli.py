"""``rdsdk export CHECKPOINT -o model.pte``: lower a checkpoint and prove it."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_export.kit import PLATFORMS, RECORDING, require_free, require_suited, write_kit
from mobile_export.programs import METHODS
from mobile_export.progress import to_stderr
from mobile_export.report import Report, report_path
from mobile_export.rnnlm import export_rnnlm
from mobile_export.targets import TARGETS, Target, target_named, target_of_suffix
from rdsdk.audio import files
from rdsdk.decoding.arguments import add_search_arguments, search
from rdsdk.errors import ExportError
from rdsdk.models import checkpoint, rnnlm
from rdsdk.models.checkpoint import Checkpoint

DEFAULT_TARGET = "pte"

DESCRIPTION = """\
Lower a checkpoint for phones and desktops. The artefact is kept only if it is proven: its structure
is read off the file, its outputs are compared with the checkpoint's in the real runtime, and every
figure is written to PATH.report.json. Otherwise nothing is written, and the exit code is 2.
"""

EXAMPLES = """\
examples:
  rdsdk export folder -o model.pte                          int8, forward (and step if it streams)
  rdsdk export folder -o model.pte --methods forward,step,features --layers 3,6,12
  rdsdk export folder -o model.pte --manifest dev.jsonl     word error rates must agree, too
  rdsdk export folder -o kit --kit android                  with a sample app and test vectors
  rdsdk export folder -o english.rnnlm                      of a recurrent language model
  rdsdk verify model.pte folder                             the same proof, later
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Lower a checkpoint, prove it, keep it; 0 when the artefact is there.

    Raises:
        RdsdkError: nothing was written; says why.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.checkpoint / rnnlm.DESCRIPTION).is_file():
        return _export_rnnlm(options, parser)
    # All that can be wrong is said before minutes of work, not after them.
    target = _target(options)
    if options.kit is not None:
        require_free(options.output)
        files.duration_seconds(options.recording)
    elif options.recording != RECORDING:
        raise ExportError("--recording is for the test vectors of a --kit; name a kit or leave it")
    if options.manifest is not None and not options.manifest.exists():
        raise ExportError(f"there is no manifest at {options.manifest}; give recordings with text")
    source = checkpoint.load(options.checkpoint)
    context = (options.chunk_frames, options.left_frames, options.right_frames)
    if context != (None, None, None):
        source = checkpoint.in_context(source, *context)
    if options.kit is not None:
        require_suited(source)
    if options.kit is None:
        report = _export(target, source, options.output, options)
        print(f"{options.output}: {options.precision}, proven")
        print(f"  every figure: {report_path(options.output)}")
    else:
        report = _write_kit(target, source, options)
    for line in report.lines():
        print(f"  {line}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rdsdk export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a folder with model.json (or a bundled name), or rnnlm.json"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="the artefact to write; with --kit a folder",
    )
    parser.add_argument(
        "--to", choices=list(TARGETS), help=f"the kind of artefact (default: {DEFAULT_TARGET})"
    )
    precisions = {name: ", ".join(target.precisions) for name, target in TARGETS.items()}
    parser.add_argument(
        "--precision",
        default="int8",
        help="of weights and products (default: int8); "
        + "; ".join(f"{name}: {known}" for name, known in precisions.items()),
    )
    parser.add_argument(
        "--methods",
        type=_names,
        metavar="A,B",
        help=f"which of {','.join(METHODS)}, forward among them; they share one copy of the "
        "weights (default: forward, and step if the student streams)",
    )
    parser.add_argument(
        "--layers",
        type=_numbers,
        default=(),
        metavar="N,M",
        help="layers, counted from 1, whose hidden states the method features gives beside the "
        "last one's",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        help="recordings with text (as for rdsdk evaluate) on which the word error rate may rise "
        "by 0.5 %% at most; take some hundred words, since each counts",
    )
    parser.add_argument("--name", help="the model's name in its card (default: the file's)")
    parser.add_argument(
        "--measured", type=Path, help="a JSON object of figures to put into the card"
    )
    context = parser.add_argument_group("latency of a streaming student")
    context.add_argument(
        "--chunk-frames", type=int, metavar="N", help="frames of 20 ms heard at once"
    )
    context.add_argument(
        "--left-frames", type=int, metavar="N", help="frames before the chunk that it sees"
    )
    context.add_argument(
        "--right-frames", type=int, metavar="N", help="frames beyond the chunk that it sees"
    )
    found = parser.add_argument_group(
        "how a .pte finds its text unless it is asked otherwise",
        "A beam search instead of the likeliest symbols: it is written "
        "into the card, and the files are copied beside the artefact.",
    )
    add_search_arguments(found)
    kit = parser.add_argument_group("for the developer of an app")
    kit.add_argument(
        "--kit",
        choices=sorted(PLATFORMS),
        help="write a new folder with the artefact, its card and report, test vectors and a "
        "streaming sample",
    )
    kit.add_argument(
        "--recording",
        type=Path,
        default=RECORDING,
        help="speech for the test vectors (default: ten digits that come with rdsdk)",
    )
    return parser


def _export_rnnlm(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    taken = {"checkpoint", "output", "precision", "measured"}
    given = [n for n, v in vars(options).items() if n not in taken and v != parser.get_default(n)]
    if given:
        raise ExportError(
            f"{options.checkpoint} holds a recurrent language model, which is exported without "
            f"{', '.join('--' + name.replace('_', '-') for name in given)}; leave that out"
        )
    measured = None if options.measured is None else _figures(options.measured)
    made = export_rnnlm(
        options.checkpoint, options.output, options.precision, measured, progress=to_stderr
    )
    print(f"{made.path}: {options.precision}, proven, {made.size_bytes / 1e6:.2f} MB")
    print(f"  likely words differ from the model's by {made.agreement.model.likely:.2g} nats")
    return 0


def _target(options: argparse.Namespace) -> Target:
    if options.kit is None:
        return target_named(options.to or DEFAULT_TARGET, options.precision)
    name = target_of_suffix(PLATFORMS[options.kit])
    if options.to not in (None, name):
        raise ExportError(
            f"a kit for {options.kit} takes what --to {name} makes, not {options.to}: leave it out"
        )
    return target_named(name, options.precision)


def _export(target: Target, source: Checkpoint, path: Path, options: argparse.Namespace) -> Report:
    wanted = search(options)
    if wanted is not None and (options.kit is not None or target is not TARGETS[DEFAULT_TARGET]):
        raise ExportError(
            "a search goes with a .pte that rdsdk runs; kits and Core ML artefacts read greedily, "
            "so leave its options out"
        )
    made = target.export(
        source,
        path,
        options.precision,
        options.name or options.output.stem,
        None if options.measured is None else _figures(options.measured),
        method_names=options.methods,
        layers=options.layers,
        manifest=options.manifest,
        progress=to_stderr,
        **({} if wanted is None else {"search": wanted}),
    )
    return made.report


def _write_kit(target: Target, source: Checkpoint, options: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        artefact = Path(folder) / f"model{target.suffix}"
        report = _export(target, source, artefact, options)
        to_stderr("writing the kit")
        step, card_json = (None, None) if target.step is None else target.step(artefact)
        made = write_kit(
            artefact,
            options.kit,
            options.output,
            options.recording,
            step=step,
            card_json=card_json,
        )
        report.write(report_path(made.artefact))
    print(f"{made.folder}: {options.kit} kit, {options.precision}, proven; see its README.md")
    print(f"  its test vectors say: {made.vectors.text or '(nothing)'}")
    if made.greedy_only:
        to_stderr(f"warning: {made.greedy_only}")
    return report


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _names(text))


def _figures(path: Path) -> dict[str, Any]:
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(figures, dict):
        raise ExportError(f"{path} holds {type(figures).__name__}, expected an object of figures")
    return figures
