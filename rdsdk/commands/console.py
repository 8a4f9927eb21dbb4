"""What every command writes to: results on the output, everything else on the error stream."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rdsdk.audio.files import TruncatedAudioWarning


def complain(message: object, kind: str = "error") -> None:
    """One line on the error stream, whatever the message holds."""
    print(f"rdsdk: {kind}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


@contextmanager
def warnings_shown(category: type[Warning], say: Callable[[str], None]) -> Iterator[None]:
    """Hand every warning of a kind to ``say``, for people, and leave the others to Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", category)
        before = warnings.showwarning

        def show(message: Warning | str, kind: type[Warning], *place: Any) -> None:
            if issubclass(kind, category):
                say(str(message))
            else:
                before(message, kind, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def warnings_in_one_line() -> AbstractContextManager[None]:
    """Show a recording that breaks off as one line for people, not as Python's warning."""
    return warnings_shown(TruncatedAudioWarning, lambda text: complain(text, "warning"))
