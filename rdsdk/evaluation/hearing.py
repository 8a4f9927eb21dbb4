"""What checkpoints say of a recording: of a student, of a teacher of phones, or of several of them
together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdsdk.audio.frames import streamed_frames
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.ctc import mean_log_probs
from rdsdk.models.student import Student

Hearing = Callable[[NDArray[np.float32]], Tensor]
"""A recording (S,) at 16 kHz -> log_probs (T, V)."""


def heard_log_probs(student: Student, samples: NDArray[np.float32], whole: bool = False) -> Tensor:
    """log_probs (T, V) of a recording (S,), by a student with a CTC head, in one pass.

    A streaming student hears it as a stream does: after a chunk of silence, and with silence behind
    it, ``TAIL_FRAMES`` of which are among the T frames. With ``whole`` each of its frames sees the
    whole recording instead.
    """
    context = None if whole else student.config.context
    with torch.inference_mode():
        if context is None:
            output, _ = student(torch.from_numpy(_one_frame(samples))[None], context="full")
            frames = None
        else:
            chunk = context.chunk_frames * HOP_SAMPLES
            overlap = student.config.overlap_samples
            _, state = student(torch.zeros(1, chunk + overlap), followed=True)
            frames = streamed_frames(len(samples), HOP_SAMPLES, OVERLAP_SAMPLES)
            length = -(-frames // context.chunk_frames) * chunk + overlap
            samples = np.pad(samples, (0, length - len(samples)))
            output, _ = student(torch.from_numpy(samples)[None], state, followed=True)
    assert output.log_probs is not None
    return output.log_probs[0, :frames].clone()


def load_hearing(folder: Path, chunk_frames: int | None = None) -> tuple[Hearing, Vocabulary]:
    """What a checkpoint folder, or bundled weights, say of a recording, and in which symbols.

    Args:
        chunk_frames: a streaming student hears chunks of so many frames instead of its own, 0
            the whole recording at once, as a teacher of phones always does.

    Raises:
        CheckpointError: the folder is no intact checkpoint.
        ConfigError: ``chunk_frames`` does not go with the model.
        ModelError: it writes no text.
    """
    if tdnn.is_saved(folder):
        if chunk_frames:
            raise ConfigError(
                f"{folder} is a teacher that hears whole recordings; leave chunk_frames out"
            )
        return _of_tdnn(tdnn.load(folder))
    loaded = checkpoint.load(folder)
    if chunk_frames:
        loaded = checkpoint.in_context(loaded, chunk_frames, None)
    student, vocabulary = loaded.student, loaded.vocabulary
    if vocabulary is None or student.symbols is None:
        raise ModelError(
            f"{folder} holds no CTC head with a vocabulary, so it writes no text; evaluate what "
            "`rdsdk finetune` makes of it"
        )

    def hear(samples: NDArray[np.float32]) -> Tensor:
        return heard_log_probs(student, samples, whole=chunk_frames == 0)

    return hear, vocabulary


def load_hearing_together(folders: Sequence[Path]) -> tuple[Hearing, Vocabulary]:
    """What several say of each frame together, each of which hears the recording as a whole: the
    mean of their log_probs, normalised, as ``rdsdk.training.imitation`` teaches it.

    Raises:
        CheckpointError, ModelError: as ``load_hearing``.
        ConfigError: they write other symbols.
    """
    loaded = [load_hearing(folder, chunk_frames=0) for folder in folders]
    hearings, vocabularies = zip(*loaded, strict=True)
    for folder, vocabulary in zip(folders, vocabularies, strict=True):
        if vocabulary != vocabularies[0]:
            raise ConfigError(
                f"{folder} writes {vocabulary.symbols}, {folders[0]} {vocabularies[0].symbols}; "
                "those that are heard together must write the same symbols"
            )

    def hear(samples: NDArray[np.float32]) -> Tensor:
        return mean_log_probs([hear_one(samples) for hear_one in hearings])

    return hear, vocabularies[0]


def _of_tdnn(loaded: tdnn.TdnnCheckpoint) -> tuple[Hearing, Vocabulary]:
    def hear(samples: NDArray[np.float32]) -> Tensor:
        with torch.inference_mode():
            log_probs: Tensor = loaded.tdnn(torch.from_numpy(_one_frame(samples))[None]).log_probs
        return log_probs[0]

    return hear, loaded.vocabulary


def _one_frame(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples with silence behind them if they are less than a frame."""
    return np.pad(samples, (0, max(0, RECEPTIVE_FIELD_SAMPLES - len(samples))))
