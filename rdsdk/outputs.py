"""Where a command writes: what cannot be written is refused before the work, not after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rdsdk.errors import ConfigError


def require_file(path: Path) -> None:
    """``path`` can become a file.

    Raises:
        ConfigError: it is a folder, or its own folder does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: it must be a file in a folder that exists")


def require_folder(path: Path) -> None:
    """``path`` is a folder or can be made one, with those above it.

    Raises:
        ConfigError: it, or one above it, is a file.
    """
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise ConfigError(f"cannot write into {path}: {place} is a file, not a folder")
            return


def usual_mode(most: int) -> int:
    """``most`` without what the process's umask takes away."""
    # It can only be read by setting it.
    umask = os.umask(0)
    os.umask(umask)
    return most & ~umask


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """None of the files that will be written is one of those that are read.

    Raises:
        ConfigError: one is; the message names it.
    """
    read = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in read:
            raise ConfigError(f"{path} is read, and would be written over; choose another folder")
