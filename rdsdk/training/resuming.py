"""Where an interrupted run is kept, and what a command says of one."""

from __future__ import annotations

from pathlib import Path

from rdsdk.errors import ConfigError

RESUME_FILE = "resume.ckpt"
"""In the folder of a run that is not whole yet."""
INTERRUPTED = 3
"""The exit code of a run that was interrupted and can be resumed."""


def resume_file_of(output: Path, resume: bool) -> Path:
    """The file from which a run goes on, or will.

    Raises:
        ConfigError: it is to go on and there is none, or to begin and there is one.
    """
    path = output / RESUME_FILE
    if resume and not path.is_file():
        raise ConfigError(f"nothing to resume: {path} does not exist; leave --resume out")
    if path.is_file() and not resume:
        raise ConfigError(
            f"{output} holds an unfinished run; go on with --resume, or choose another output"
        )
    return path
