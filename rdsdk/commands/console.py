"""What every command writes to: results on the output, everything else on the error stream."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rdsdk.audio.files import TruncatedAudioWarning


def complain(message: object, kind: str = "error") -> None:
    """One line on the error stream, whatever the message holds."""
    print(f"rdsdk: {kind}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show a recording that breaks off as one line for people, not as Python's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TruncatedAudioWarning)
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: object) -> None:
            if issubclass(category, TruncatedAudioWarning):
                complain(message, "warning")
            else:
                before(message, category, *place)  # type: ignore[arg-type]

        warnings.showwarning = show  # type: ignore[assignment]
        yield
