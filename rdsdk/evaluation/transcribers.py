"""What an evaluation listens with: an artefact or a checkpoint, behind one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import rdsdk
from rdsdk.data import pocketsphinx
from rdsdk.decoding.decoder import new_decoder
from rdsdk.decoding.segment import Word
from rdsdk.decoding.settings import BeamSettings, Search
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import HOP_SAMPLES, OVERLAP_SAMPLES, RECEPTIVE_FIELD_SAMPLES
from rdsdk.models.student import Student

SAMPLE_RATE = 16_000

POCKETSPHINX = "pocketsphinx"
"""The name of a peer to place models by: PocketSphinx with the English model of its package."""

TAIL_FRAMES = 10
"""Of silence after a recording that a streaming student hears, as in the runtime."""

Transcriber = Callable[[NDArray[np.float32]], str]
WordTranscriber = Callable[[NDArray[np.float32]], Sequence[Word]]
"""The same with when each word is said; the text is its words with a space between them."""


def joined(words: Iterable[Word]) -> str:
    """The text of words."""
    return " ".join(word.text for word in words)


def load_word_transcriber(
    model: str,
    threads: int | None = None,
    block_ms: float | None = None,
    chunk_frames: int | None = None,
    beam: Search | None = None,
    hotwords: Sequence[str] = (),
) -> WordTranscriber:
    """Samples (S,) float32 at 16 kHz -> words, by a checkpoint folder, a ``.pte`` or a bundled
    name.

    An artefact runs as it does for a user, with its endpoints; a checkpoint decodes what it hears
    in one pass. ``pocketsphinx`` is PocketSphinx, as a peer.

    Args:
        block_ms: an artefact hears blocks of so many milliseconds through a live stream, partials
            included, as from a microphone; None gives it whole recordings.
        chunk_frames: a streaming checkpoint hears chunks of so many frames instead of its own, 0
            the whole recording at once.
        beam, hotwords: as for ``rdsdk.transcribe``; without either, text is found as the card of
            an artefact says, or greedily.

    Raises:
        ModelError: the artefact or the language model cannot be loaded, or the checkpoint writes
            no text.
        CheckpointError: the folder is no intact checkpoint.
        ConfigError: ``threads`` is below one, or an option does not go with the model.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if model == POCKETSPHINX and not Path(model).exists():
        if (threads, block_ms, chunk_frames, beam) != (None,) * 4 or hotwords:
            raise ConfigError(
                "pocketsphinx hears whole recordings on one thread, with its own language model; "
                "leave options out"
            )
        return _pocketsphinx()
    if is_checkpoint(model):
        if block_ms is not None:
            raise ConfigError(
                f"{model} is a checkpoint, which hears recordings in one pass; blocks go with an "
                "artefact (rdsdk export)"
            )
        searched = None if beam == "greedy" else beam
        if tdnn.is_saved(model):
            return _from_tdnn(Path(model), threads, chunk_frames, searched, hotwords)
        return _from_checkpoint(Path(model), threads, chunk_frames, searched, hotwords)
    if chunk_frames is not None:
        raise ConfigError(
            f"{model} is an artefact, whose chunk is fixed; choose chunk_frames in rdsdk export, "
            "or evaluate the checkpoint"
        )
    recognizer = rdsdk.load(model, threads)
    # Here and not in the first recording's time: a language model is prepared once.
    recognizer.stream(beam=beam, hotwords=hotwords)

    def transcribe(samples: NDArray[np.float32]) -> list[Word]:
        segments = recognizer.transcribe((samples, SAMPLE_RATE), beam=beam, hotwords=hotwords)
        return [word for segment in segments if segment.is_final for word in segment.words]

    def live(samples: NDArray[np.float32]) -> list[Word]:
        assert block_ms is not None
        block = max(1, round(block_ms * SAMPLE_RATE / 1000))
        stream = recognizer.stream(partials=True, beam=beam, hotwords=hotwords)
        segments: list[rdsdk.Segment] = []
        for start in range(0, len(samples), block):
            segments += stream.feed(samples[start : start + block])
        segments += stream.finish()
        return [word for segment in segments if segment.is_final for word in segment.words]

    return transcribe if block_ms is None else live


def is_checkpoint(model: str) -> bool:
    """``model`` is a folder, or the name of bundled weights without an artefact. A bundled model's
    name is that model, whatever folder has the same name."""
    return model not in rdsdk.bundled_models() and checkpoint.located(model).is_dir()


def own_search_of(model: str, threads: int | None = None) -> BeamSettings | None:
    """The search of an artefact's card; None for a checkpoint, for a peer, or greedily.

    Raises:
        ModelError, ConfigError: as ``rdsdk.load``.
    """
    if is_checkpoint(model) or (model == POCKETSPHINX and not Path(model).exists()):
        return None
    return rdsdk.load(model, threads).search


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
            frames = max(1, -(-(len(samples) - OVERLAP_SAMPLES) // HOP_SAMPLES)) + TAIL_FRAMES
            length = -(-frames // context.chunk_frames) * chunk + overlap
            samples = np.pad(samples, (0, length - len(samples)))
            output, _ = student(torch.from_numpy(samples)[None], state, followed=True)
    assert output.log_probs is not None
    return output.log_probs[0, :frames].clone()


def text_of(
    log_probs: Tensor,
    vocabulary: Vocabulary,
    beam: BeamSettings | None = None,
    hotwords: Sequence[str] = (),
) -> str:
    """log_probs (T, V) -> the text of a decoder, an open last word included."""
    return joined(words_of(log_probs, vocabulary, beam, hotwords))


def words_of(
    log_probs: Tensor,
    vocabulary: Vocabulary,
    beam: BeamSettings | None = None,
    hotwords: Sequence[str] = (),
) -> list[Word]:
    """The same with times."""
    decoder = new_decoder(vocabulary, beam=beam, hotwords=hotwords)
    words = decoder.feed(log_probs.numpy())
    return [*words, *decoder.end()]


def _from_checkpoint(
    folder: Path,
    threads: int | None,
    chunk_frames: int | None = None,
    beam: BeamSettings | None = None,
    hotwords: Sequence[str] = (),
) -> WordTranscriber:
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

    return _searched(hear, vocabulary, threads, beam, hotwords)


def _from_tdnn(
    folder: Path,
    threads: int | None,
    chunk_frames: int | None,
    beam: BeamSettings | None,
    hotwords: Sequence[str],
) -> WordTranscriber:
    """By a teacher of phones, which hears a recording as a whole."""
    if chunk_frames:
        raise ConfigError(
            f"{folder} is a teacher that hears whole recordings; leave chunk_frames out"
        )
    loaded = tdnn.load(folder)

    def hear(samples: NDArray[np.float32]) -> Tensor:
        with torch.inference_mode():
            log_probs: Tensor = loaded.tdnn(torch.from_numpy(_one_frame(samples))[None]).log_probs
        return log_probs[0]

    return _searched(hear, loaded.vocabulary, threads, beam, hotwords)


def _searched(
    hear: Callable[[NDArray[np.float32]], Tensor],
    vocabulary: Vocabulary,
    threads: int | None,
    beam: BeamSettings | None,
    hotwords: Sequence[str],
) -> WordTranscriber:
    """What is said in the log_probs (T, V) that ``hear`` gives."""
    # A search that cannot be had is told before the first recording.
    new_decoder(vocabulary, beam=beam, hotwords=hotwords)
    if threads is not None:
        torch.set_num_threads(threads)

    def transcribe(samples: NDArray[np.float32]) -> list[Word]:
        return words_of(hear(samples), vocabulary, beam, hotwords)

    return transcribe


def _one_frame(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples with silence behind them if they are less than a frame."""
    return np.pad(samples, (0, max(0, RECEPTIVE_FIELD_SAMPLES - len(samples))))


def _pocketsphinx() -> WordTranscriber:
    decoder = pocketsphinx.new_decoder()

    def transcribe(samples: NDArray[np.float32]) -> list[Word]:
        if len(samples) < RECEPTIVE_FIELD_SAMPLES:
            return []
        heard = pocketsphinx.heard_words(decoder, samples)
        return [Word(word, start, end, 1.0) for word, start, end in heard]

    return transcribe
