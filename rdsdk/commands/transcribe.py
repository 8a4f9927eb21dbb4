"""``rdsdk transcribe``: recordings or a microphone to text, each segment as soon as it is final."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rdsdk.audio import files
from rdsdk.audio.speech_gate import SpeechGate
from rdsdk.commands import live
from rdsdk.commands.console import complain, warnings_in_one_line
from rdsdk.decoding.arguments import add_decoding_arguments, decoding
from rdsdk.decoding.segment import Segment
from rdsdk.errors import AudioError, ConfigError
from rdsdk.runtime.ctrl_c import ctrl_c_waits
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.recognizer import DEFAULT_MODEL, Recognizer, load

STDIN = "-"
_RULES = EndpointRules()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdsdk transcribe``."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a sound file (wav, flac, ogg, opus, mp3), or - for raw 16-bit samples on stdin; "
        "without any, the microphone is heard until Ctrl-C",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a .pte file or a bundled name (default: %(default)s)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line for each segment")
    form.add_argument("--words", action="store_true", help="each word with its times")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    parser.add_argument(
        "--raw-rate",
        type=float,
        default=files.SAMPLE_RATE,
        metavar="HZ",
        help="sample rate of raw samples on stdin: 16-bit, little endian, mono (default: 16000)",
    )
    segments = parser.add_argument_group("where segments end, and which sound is heard")
    segments.add_argument(
        "--endpoint-silence",
        type=float,
        default=_RULES.trailing_silence_seconds,
        metavar="SECONDS",
        help="a segment ends so long after its last word (default: %(default)s)",
    )
    segments.add_argument(
        "--longest-segment",
        type=float,
        default=_RULES.max_segment_seconds,
        metavar="SECONDS",
        help="a longer segment ends after its next word (default: %(default)s)",
    )
    segments.add_argument(
        "--no-speech",
        type=float,
        metavar="SECONDS",
        help="so long without a word is a segment without text, shown with --json (default: never)",
    )
    segments.add_argument(
        "--gate",
        nargs="?",
        type=_threshold,
        const=SpeechGate.threshold,
        metavar="THRESHOLD",
        help="no words outside speech: only where silero-vad finds speech with this probability "
        "(--gate alone: %(const)s); needs pip install 'rdsdk[vad]'",
    )
    add_decoding_arguments(parser)
    listening = parser.add_argument_group("listening to a microphone")
    listening.add_argument(
        "--device", help="a number or a part of a name, as `rdsdk doctor` lists them"
    )
    listening.add_argument(
        "--record", type=Path, metavar="WAV", help="also keep what is heard in this file"
    )


def _threshold(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # A file that follows --gate is taken for its threshold.
        raise argparse.ArgumentTypeError(
            f"{text!r} is no probability; write --gate=0.5, or the files before --gate"
        ) from None


def hearing(arguments: argparse.Namespace, recognizer: Recognizer) -> dict[str, Any]:
    """What the arguments ask of a stream: its rules, gate, search and hotwords.

    Raises:
        ConfigError: one of them is out of range.
    """
    rules = EndpointRules(
        arguments.endpoint_silence, arguments.longest_segment, arguments.no_speech
    )
    gate = None if arguments.gate is None else SpeechGate(arguments.gate)
    beam, hotwords = decoding(arguments, recognizer.search)
    return {"rules": rules, "gate": gate, "beam": beam, "hotwords": hotwords}


def run(arguments: argparse.Namespace) -> int:
    """Transcribe each file; one that cannot be read does not stop the others.

    Returns:
        0, or 2 when a file failed.
    """
    if arguments.files.count(STDIN) > 1:
        raise ConfigError("- is given more than once, but there is only one standard input")
    recognizer = load(arguments.model, arguments.threads)
    if not arguments.files:
        return live.run(recognizer, arguments)
    for option in ("device", "record"):
        if getattr(arguments, option) is not None:
            raise ConfigError(f"--{option} is for a microphone; leave it or the files out")
    # A model without text or a gate that is not installed fails here, and not for each file.
    how = hearing(arguments, recognizer)
    recognizer.stream(**how)
    failed = False
    for name in arguments.files:
        if len(arguments.files) > 1 and not arguments.json:
            print(f"== {name} ==", flush=True)
        try:
            with warnings_in_one_line():
                _transcribe(recognizer, name, arguments, how)
        except AudioError as error:
            complain(error)
            failed = True
    return 2 if failed else 0


def _transcribe(
    recognizer: Recognizer,
    name: str,
    arguments: argparse.Namespace,
    how: dict[str, Any],
) -> None:
    with ExitStack() as stack:
        if name == STDIN:
            if sys.stdin is None or sys.stdin.isatty():
                raise AudioError("standard input is a terminal; pipe raw 16-bit samples into it")
            blocks = files.read_raw(sys.stdin.buffer, arguments.raw_rate)
        else:
            blocks = files.read_blocks(name)
            # Where text appears on the terminal by itself, a bar would only be in its way.
            if not sys.stdout.isatty() and sys.stderr.isatty():
                blocks = stack.enter_context(_progress(name, blocks))
        # What is being recognised is shown before Ctrl-C ends the command.
        ctrl_c = stack.enter_context(ctrl_c_waits())
        for segment in recognizer.transcribe(ctrl_c.between(blocks), **how):
            show(segment, name, arguments)


def show(segment: Segment, name: str, arguments: argparse.Namespace) -> None:
    """Print a segment in the form that was asked for."""
    if arguments.json:
        print(json.dumps({"file": name, **asdict(segment)}, ensure_ascii=False), flush=True)
        return
    if not segment.text:  # nothing was said
        return
    print(segment.text, flush=True)
    if arguments.words:
        for word in segment.words:
            print(
                f"  {word.start:8.2f} {word.end:8.2f}  {word.confidence:4.2f}  {word.text}",
                flush=True,
            )


def _progress(name: str, blocks: Iterator[np.ndarray]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    seconds = files.duration_seconds(name)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s of sound"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # the results would land on the error stream
    )
    task = bar.add_task(Path(name).name, total=seconds)

    def counted() -> Iterator[np.ndarray]:
        with bar:
            for block in blocks:
                yield block
                bar.advance(task, len(block) / files.SAMPLE_RATE)

    return nullcontext(counted())
