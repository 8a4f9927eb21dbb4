"""``rdsdk analyze``: how alike the layers of a teacher are, and a student's layers its teacher's.

``attention`` compares the attention maps of all layers and heads over recordings, and says which
layers could share one; ``layers`` compares the hidden states of a distilled student with its
teacher's. Layers are counted from 0, as in ``map_owner``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rdsdk.data.manifest import SAMPLE_RATE, read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.errors import ConfigError
from rdsdk.evaluation.attention_analysis import AttentionAnalysis, analyze_attention
from rdsdk.evaluation.layer_analysis import LayerAnalysis, analyze_layers
from rdsdk.evaluation.report import wide_console
from rdsdk.models import checkpoint
from rdsdk.models.config import RECEPTIVE_FIELD_SAMPLES
from rdsdk.training.teachers import load_teacher


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: a table, or JSON, on the output, and the files in the folder.

    Raises:
        RdsdkError: a model, corpus, recording or folder is not usable.
    """
    options = _parser().parse_args(argv)
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    if options.clips is not None and options.clips < 1:
        raise ConfigError(f"clips must be at least 1, got {options.clips}")
    if not options.seconds > 0:
        raise ConfigError(f"seconds must be positive, got {options.seconds}")
    # Before the models, so that a wrong path is told at once.
    cuts = _sample(read_cuts(options.manifest), options.clips)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {options.output}: {error.strerror}") from error
    device = _device(options.device)
    analysis: AttentionAnalysis | LayerAnalysis
    if options.what == "attention":
        teacher = load_teacher(options.teacher).to(device)
        analysis = analyze_attention(teacher, _recordings(cuts, options, device))
    else:
        # The student first: its folder is read in a moment, a teacher may be a download.
        student = checkpoint.load(options.student).student.to(device)
        teacher = load_teacher(options.teacher).to(device)
        name = Path(options.student).resolve().name
        analysis = analyze_layers(teacher, student, name, _recordings(cuts, options, device))
    values = {"data": options.manifest, **analysis.to_dict()}
    numbers = f"{options.what}.json"
    text = json.dumps(values, indent=1)
    (options.output / numbers).write_text(text + "\n", encoding="utf-8")
    written = [*analysis.save(options.output), numbers]
    if options.json:
        print(text)
        return 0
    console = wide_console()
    for part in analysis.report():
        console.print(part)
    print(f"written to {options.output}: {', '.join(written)}")
    return 0


def _recordings(
    cuts: Sequence[Cut] | CutSet, options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(waveform (1, S), sample_counts (1,)): one at a time, so that no padding could count."""
    progress = Console(stderr=True)
    skipped = 0
    for cut in track(
        cuts,
        description=options.what,
        console=progress,
        transient=True,
        disable=not progress.is_terminal,
    ):
        waveform = load_waveform(cut)[: round(options.seconds * SAMPLE_RATE)]
        if len(waveform) < RECEPTIVE_FIELD_SAMPLES:
            skipped += 1
            continue
        yield (
            torch.from_numpy(waveform)[None].to(device),
            torch.tensor([len(waveform)], device=device),
        )
    if skipped:
        progress.print(f"left out {skipped} recordings shorter than a frame (25 ms)")


def _sample(cuts: CutSet, clips: int | None) -> Sequence[Cut] | CutSet:
    """``clips`` of the recordings, evenly spaced: a sorted corpus keeps all its speakers."""
    if cuts.is_lazy:
        # Its length is not known before its end.
        return cuts if clips is None else cuts.subset(first=clips)
    listed = list(cuts)
    if clips is None or clips >= len(listed):
        return listed
    return [listed[step * len(listed) // clips] for step in range(clips)]


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use the device {name!r}: {reason}; try cpu or cuda") from error
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdsdk analyze", description=__doc__)
    whats = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    attention = whats.add_parser(
        "attention", help="similarity of a teacher's attention maps, and the reuse it suggests"
    )
    layers = whats.add_parser("layers", help="similarity of a student's layers to its teacher's")
    for command in (attention, layers):
        command.add_argument(
            "teacher",
            metavar="TEACHER",
            help="a transformers or rdsdk checkpoint folder, a hub name, or torchaudio:HUBERT_BASE",
        )
        if command is layers:
            command.add_argument(
                "student", metavar="STUDENT", help="an rdsdk checkpoint folder or a bundled name"
            )
        command.add_argument(
            "manifest",
            metavar="MANIFEST",
            help="a JSONL manifest, a LibriSpeech folder, lhotse cuts or a Shar folder",
        )
        command.add_argument(
            "-o",
            "--output",
            type=Path,
            default=Path("analysis"),
            metavar="FOLDER",
            help="where the figure and the numbers go (default: %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="JSON instead of tables")
        command.add_argument("--clips", type=int, metavar="N", help="only N of the recordings")
        command.add_argument(
            "--seconds",
            type=float,
            default=20.0,
            help="of each recording at most this much (default: %(default)s)",
        )
        command.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
        command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    return parser
