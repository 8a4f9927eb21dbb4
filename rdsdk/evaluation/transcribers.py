"""What an evaluation listens with: an artefact or a checkpoint, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import rdsdk
from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError
from rdsdk.models import checkpoint
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.student import Student

SAMPLE_RATE = 16_000

TAIL_FRAMES = 10
"""Of silence after a recording that a streaming student hears, as in the runtime."""

Transcriber = Callable[[NDArray[np.float32]], str]


def load_transcriber(model: str, threads: int | None = None) -> Transcriber:
    """Samples (S,) float32 at 16 kHz -> text, by a checkpoint folder, a ``.pte`` or a bundled name.

    An artefact runs as it does for a user, with its endpoints; a checkpoint decodes greedily what
    it hears in one pass.

    Raises:
        ModelError: the artefact cannot be loaded, or the checkpoint writes no text.
        CheckpointError: the folder is no intact checkpoint.
        ConfigError: ``threads`` is below one.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if Path(model).is_dir():
        return _from_checkpoint(Path(model), threads)
    recognizer = rdsdk.load(model, threads)

    def transcribe(samples: NDArray[np.float32]) -> str:
        segments = recognizer.transcribe((samples, SAMPLE_RATE))
        return " ".join(segment.text for segment in segments if segment.is_final and segment.text)

    return transcribe


def heard_log_probs(student: Student, samples: NDArray[np.float32]) -> Tensor:
    """log_probs (T, V) of a recording (S,), by a student with a CTC head, in one pass.

    A streaming student hears it as a stream does: after a chunk of silence, and with silence behind
    it, ``TAIL_FRAMES`` of which are among the T frames.
    """
    context = student.config.context
    with torch.inference_mode():
        if context is None:
            samples = np.pad(samples, (0, max(0, RECEPTIVE_FIELD_SAMPLES - len(samples))))
            output, _ = student(torch.from_numpy(samples)[None])
            frames = None
        else:
            chunk = context.chunk_frames * HOP_SAMPLES
            _, state = student(torch.zeros(1, chunk + OVERLAP_SAMPLES))
            frames = max(1, -(-(len(samples) - OVERLAP_SAMPLES) // HOP_SAMPLES)) + TAIL_FRAMES
            whole = -(-frames // context.chunk_frames) * chunk + OVERLAP_SAMPLES
            samples = np.pad(samples, (0, whole - len(samples)))
            output, _ = student(torch.from_numpy(samples)[None], state)
    assert output.log_probs is not None
    return output.log_probs[0, :frames].clone()


def text_of(log_probs: Tensor, vocabulary: Vocabulary) -> str:
    """log_probs (T, V) -> the words of a greedy decoder, an open last one included."""
    decoder = GreedyDecoder(vocabulary)
    words = decoder.feed(log_probs.numpy())
    last = decoder.end_word()
    return " ".join(word.text for word in (*words, *([last] if last else [])))


def _from_checkpoint(folder: Path, threads: int | None) -> Transcriber:
    loaded = checkpoint.load(folder)
    student, vocabulary = loaded.student, loaded.vocabulary
    if vocabulary is None or student.symbols is None:
        raise ModelError(
            f"{folder} holds no CTC head with a vocabulary, so it writes no text; evaluate what "
            "`rdsdk finetune` makes of it"
        )
    if threads is not None:
        torch.set_num_threads(threads)

    def transcribe(samples: NDArray[np.float32]) -> str:
        return text_of(heard_log_probs(student, samples), vocabulary)

    return transcribe
