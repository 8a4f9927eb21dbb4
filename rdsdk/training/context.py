"""Which context a batch is seen with, so that one set of weights serves every latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rdsdk.errors import ConfigError
from rdsdk.models.config import Context, EncoderConfig


def draw_context(
    chunk_frames: Sequence[int | None],
    left_frames: int | None,
    configured: Context | None,
    seed: int,
    step: int,
) -> Context | Literal["full", "configured"]:
    """The context of one batch: the same on every device and after a resume.

    One of ``chunk_frames``, None being full context, with ``left_frames`` or else the configured
    left context, and the configured right one; without a choice the configured context.
    """
    if not chunk_frames:
        return "configured"
    drawn = chunk_frames[int(np.random.default_rng((seed, step)).integers(len(chunk_frames)))]
    if drawn is None:
        return "full"
    assert configured is not None
    left_frames = configured.left_frames if left_frames is None else left_frames
    return Context(drawn, left_frames, configured.right_frames)


def refuse_chunks_without_context(
    chunk_frames: Sequence[int | None], config: EncoderConfig
) -> None:
    """Raises: ConfigError: a full-context student has no chunks to draw."""
    if chunk_frames and config.context is None:
        raise ConfigError(
            "chunk_frames were given for a full-context student; use a streaming preset or "
            "context, or leave chunk_frames empty"
        )
