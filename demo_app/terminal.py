"""Live captions in the terminal, in one sitting: python -m demo_app.terminal [--device NAME]

What is still being said is dim and may change; what is finished scrolls up. Ctrl-C ends it, and the
last words are not lost. `rdsdk transcribe` does the same with a level meter; this is for reading.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

import rdsdk


def main(argv: Sequence[str] | None = None) -> int:
    """Caption the microphone until Ctrl-C; 2 when it cannot be heard."""
    parser = argparse.ArgumentParser(prog="python -m demo_app.terminal", description=__doc__)
    parser.add_argument("--device", help="a part of the microphone's name (see rdsdk doctor)")
    parser.add_argument("--model", default=rdsdk.DEFAULT_MODEL, help="a .pte or a bundled name")
    options = parser.parse_args(argv)
    screen = Console()
    try:
        recognizer = rdsdk.load(options.model)
        # Nothing is opened here: the microphone starts when its first segment is asked for.
        segments = recognizer.transcribe(rdsdk.Microphone(options.device), partials=True)
        with Live(console=screen, transient=True) as live:
            live.update(Text(f"{recognizer.card.name} is listening", style="dim"))
            for segment in segments:
                if segment.is_final:
                    screen.print(timed(segment))
                live.update(Text() if segment.is_final else spoken(segment))
    except rdsdk.RdsdkError as error:
        Console(stderr=True).print("[red]error[/]: ", Text(str(error)))
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def spoken(segment: rdsdk.Segment) -> Text:
    """A partial: what will not change plain, the rest dim."""
    settled = len(segment.stable)
    return Text.assemble(segment.text[:settled], (segment.text[settled:], "dim"))


def timed(segment: rdsdk.Segment) -> Text:
    """A finished segment with where in the sound it was."""
    return Text.assemble((f"{segment.start:7.2f} s  ", "cyan"), segment.text)


if __name__ == "__main__":
    sys.exit(main())
