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
from rdsdk.errors import ConfigError
from rdsdk.evaluation.hearing import Hearing, load_hearing, load_hearing_together
from rdsdk.models import checkpoint
from rdsdk.models.config import RECEPTIVE_FIELD_SAMPLES

SAMPLE_RATE = 16_000

POCKETSPHINX = "pocketsphinx"
"""The name of a peer to place models by: PocketSphinx with the English model of its package."""

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
    together: Sequence[str] = (),
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
        together: checkpoints that say of each frame what they hear together with the first, which
            is one too; all hear the recording as a whole.

    Raises:
        ModelError: the artefact or the language model cannot be loaded, or the checkpoint writes
            no text.
        CheckpointError: the folder is no intact checkpoint.
        ConfigError: ``threads`` is below one, or an option does not go with the model.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    if together:
        _require_together(model, together, chunk_frames)
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
        if together:
            hear, vocabulary = load_hearing_together([Path(each) for each in (model, *together)])
        else:
            hear, vocabulary = load_hearing(Path(model), chunk_frames)
        return _searched(hear, vocabulary, threads, searched, hotwords)
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


def _require_together(model: str, together: Sequence[str], chunk_frames: int | None) -> None:
    for each in (model, *together):
        if not is_checkpoint(each):
            raise ConfigError(
                f"{each} is no checkpoint folder, and only checkpoints are heard together"
            )
    if chunk_frames:
        raise ConfigError(
            "checkpoints that are heard together hear each recording as a whole; leave "
            "chunk_frames out"
        )


def own_search_of(model: str, threads: int | None = None) -> BeamSettings | None:
    """The search of an artefact's card; None for a checkpoint, for a peer, or greedily.

    Raises:
        ModelError, ConfigError: as ``rdsdk.load``.
    """
    if is_checkpoint(model) or (model == POCKETSPHINX and not Path(model).exists()):
        return None
    return rdsdk.load(model, threads).search


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


def _searched(
    hear: Hearing,
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


def _pocketsphinx() -> WordTranscriber:
    decoder = pocketsphinx.new_decoder()

    def transcribe(samples: NDArray[np.float32]) -> list[Word]:
        if len(samples) < RECEPTIVE_FIELD_SAMPLES:
            return []
        heard = pocketsphinx.heard_words(decoder, samples)
        return [Word(word, start, end, 1.0) for word, start, end in heard]

    return transcribe
