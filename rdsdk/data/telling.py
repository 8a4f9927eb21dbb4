"""What a command that reads its own arguments says when something was wrong."""

from __future__ import annotations

from rich.console import Console

from rdsdk.errors import RdsdkError


def tell_error(error: RdsdkError) -> None:
    """A line on the error stream, red on a terminal. It is not broken: a path stays whole."""
    Console(stderr=True).print(
        f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
    )
