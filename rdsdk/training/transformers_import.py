"""transformers, imported and used without filling the user's screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rdsdk.errors import ConfigError
from rdsdk.training.torchaudio_import import mend_torchaudio

# What they say is about CUDA libraries of packages that a teacher does not use.
_NOISY = ("torchao", "torch.utils._pytree")


def import_transformers() -> Any:
    """The package, whatever torchaudio is installed.

    Raises:
        ConfigError: it is not installed or does not load.
    """
    mend_torchaudio()
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"this teacher needs transformers, which does not load ({error}); run: "
            "pip install 'rdsdk[train]'"
        ) from error
    return transformers


@contextmanager
def quietly(transformers: Any, downloads: bool) -> Iterator[None]:
    """Without the table of weights left behind (a task head is meant to be), and without progress
    bars unless something may be downloaded."""
    log = transformers.logging
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    noisy = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in noisy]
    log.set_verbosity_error()
    if not downloads:
        log.disable_progress_bar()
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
