"""A speech gate between encoder and decoder: frames without speech say blank, and nothing else."""

from __future__ import annotations

import numpy as np

from rdsdk.audio.speech_gate import SpeechFrames, SpeechGate
from rdsdk.runtime.card import Card

_IMPOSSIBLE = -1e4  # a log probability; finite, so that sums over frames stay numbers


class Gating:
    """Samples in at one side, their log_probs at the other, whichever comes first.

    Frames leave in order, each once, and as soon as the gate knows whether there is speech; what
    they say does not depend on how samples or frames were cut into blocks. Without a gate they
    pass as they are.

    Where the vocabulary has a word boundary, one that is likeliest in a frame without speech is
    left: it belongs between words, and without it the words on either side would become one.

    Raises:
        ConfigError: there is a gate, but its detector is not installed.
    """

    def __init__(self, gate: SpeechGate | None, card: Card) -> None:
        assert card.vocabulary is not None
        self._blank = card.vocabulary.blank
        self._boundary = card.vocabulary.boundary_id
        self._speech = None
        if gate is not None:
            self._speech = SpeechFrames(gate, card.hop_samples, card.receptive_field_samples)
        self._waiting: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget everything: the next sample is the first of the next frame."""
        self._waiting = []
        if self._speech is not None:
            self._speech.reset()

    def hear(self, waveform: np.ndarray) -> None:
        """Samples (S,) at 16 kHz, the same that the encoder is fed."""
        if self._speech is not None:
            self._speech.feed(waveform)

    def finish(self) -> None:
        """There is no more sound."""
        if self._speech is not None:
            self._speech.finish()

    def add(self, log_probs: np.ndarray) -> None:
        """The next frames (T, V) of the encoder."""
        self._waiting.append(log_probs)

    def take(self) -> list[np.ndarray]:
        """The frames (T, V) that are known by now, those without speech turned into blanks."""
        if self._speech is None:
            taken, self._waiting = self._waiting, []
            return taken
        taken = []
        while self._waiting:
            log_probs = self._waiting[0]
            is_open = self._speech.take(len(log_probs))
            taken.append(self._gated(log_probs[: len(is_open)], is_open))
            if len(is_open) < len(log_probs):
                self._waiting[0] = log_probs[len(is_open) :]
                break
            del self._waiting[0]
        return taken

    def _gated(self, log_probs: np.ndarray, is_open: np.ndarray) -> np.ndarray:
        """A frame that is closed says blank with probability one, or boundary where it did."""
        said = np.full(len(log_probs), self._blank)
        if self._boundary is not None:
            said[log_probs.argmax(axis=1) == self._boundary] = self._boundary
        closed = np.full_like(log_probs, _IMPOSSIBLE)
        closed[np.arange(len(said)), said] = 0.0
        return np.where(is_open[:, None], log_probs, closed)
