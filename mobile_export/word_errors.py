"""Word error rates of an artefact and of its checkpoint on one manifest, decoded alike.

Both hear every recording in one stream from the same beginning, and the same decoder reads both, so
that a difference is the artefact's doing and not that of endpoint rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_export.listening import LogProbs
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ExportError
from rdsdk.evaluation.evaluate import evaluate
from rdsdk.evaluation.hearing import heard_log_probs
from rdsdk.evaluation.transcribers import text_of
from rdsdk.models.checkpoint import Checkpoint

MAXIMUM_WER_LOSS = 0.005
"""How much higher an artefact's word error rate may be than its checkpoint's: 0.5 absolute."""


@dataclass(frozen=True)
class WordErrors:
    """Word errors of both on the same recordings; rates from 0 on."""

    manifest: str
    clips: int
    words: int
    checkpoint_wer: float
    artefact_wer: float
    differing_clips: int
    """Recordings of which the two wrote different text."""

    @property
    def lost(self) -> float:
        """How much higher the artefact's rate is."""
        return self.artefact_wer - self.checkpoint_wer

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "manifest": self.manifest,
            "clips": self.clips,
            "words": self.words,
            "checkpoint_wer": round(self.checkpoint_wer, 5),
            "artefact_wer": round(self.artefact_wer, 5),
            "differing_clips": self.differing_clips,
        }


def word_errors(
    checkpoint: Checkpoint,
    heard: LogProbs,
    manifest: Path | str,
    search: BeamSettings | None = None,
) -> WordErrors:
    """Transcribe a manifest with the checkpoint and with ``heard``, an artefact's log_probs, both
    read by ``search``, or greedily.

    Raises:
        DataError: the manifest or a recording cannot be read, or a recording has no text.
        ExportError: the student writes no text, or the manifest holds no words.
    """
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        raise ExportError(
            "this checkpoint writes no text, so it has no word error rate; leave the manifest out"
        )
    cuts = read_cuts(manifest)
    student = checkpoint.student.eval()
    reference = evaluate(
        _transcriber(lambda samples: heard_log_probs(student, samples), vocabulary, search),
        cuts,
        "checkpoint",
    )
    found = evaluate(_transcriber(heard, vocabulary, search), cuts, "artefact")
    words = reference.rates.words.reference
    if not words:
        raise ExportError(f"{manifest} holds no words, so no word error rate can be measured on it")
    return WordErrors(
        Path(manifest).name,
        len(reference.utterances),
        words,
        reference.rates.wer,
        found.rates.wer,
        sum(
            a.hypothesis != b.hypothesis
            for a, b in zip(reference.utterances, found.utterances, strict=True)
        ),
    )


def _transcriber(
    heard: LogProbs, vocabulary: Vocabulary, search: BeamSettings | None
) -> Callable[[np.ndarray], str]:
    return lambda samples: text_of(heard(samples), vocabulary, search)
