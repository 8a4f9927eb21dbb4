"""A transcriber over a corpus: what it wrote, how wrong that is, and how long it took."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lhotse import CutSet
from rich.console import Console
from rich.progress import track

from rdsdk.data.manifest import transcript
from rdsdk.data.waveform import load_waveform
from rdsdk.data.word_spans import TimedWord, spans_of
from rdsdk.errors import DataError
from rdsdk.evaluation.conditions import Condition, condition
from rdsdk.evaluation.transcribers import SAMPLE_RATE, Transcriber, WordTranscriber, joined
from rdsdk.evaluation.wer import ErrorRates, error_rates, finite, normalise
from rdsdk.evaluation.word_times import WordTimes, word_times

LENGTHS = (2.0, 5.0, 10.0, 15.0, math.inf)
"""Upper bounds of the groups by length, in seconds."""


@dataclass(frozen=True)
class Utterance:
    """One recording, what it says and what was recognised; texts as they were compared."""

    id: str
    speaker: str | None
    seconds: float
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Evaluation:
    """What one corpus gave under one condition.

    ``processing_seconds`` is listening alone, without reading files. ``times`` are those of the
    words, where both the transcriber and a reference tell them.
    """

    name: str
    condition: str
    utterances: tuple[Utterance, ...]
    rates: ErrorRates
    audio_seconds: float
    processing_seconds: float
    times: WordTimes = field(default_factory=WordTimes)

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of sound."""
        return self.processing_seconds / self.audio_seconds

    def by_speaker(self) -> dict[str, ErrorRates]:
        """The rates of each speaker; those that nobody named are together."""
        return self._grouped([one.speaker or "unknown" for one in self.utterances])

    def by_length(self) -> dict[str, ErrorRates]:
        """The rates of recordings of similar length, shortest first; see ``LENGTHS``."""
        found = self._grouped([_length_group(one.seconds) for one in self.utterances])
        return {label: found[label] for label in map(_label, range(len(LENGTHS))) if label in found}

    def _grouped(self, labels: Sequence[str]) -> dict[str, ErrorRates]:
        members: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            members.setdefault(label, []).append(index)
        words, characters = self.rates.word_counts, self.rates.character_counts
        return {
            label: ErrorRates(tuple(words[i] for i in at), tuple(characters[i] for i in at))
            for label, at in members.items()
        }

    def to_dict(self, groups: Sequence[str] = ()) -> dict[str, object]:
        """A JSON value; a rate without any reference word is null.

        Args:
            groups: of ``speaker`` and ``length``, what to list besides.
        """
        value: dict[str, object] = {
            "data": self.name,
            "condition": self.condition,
            "audio_seconds": round(self.audio_seconds, 3),
            **rates_to_dict(self.rates),
            "real_time_factor": round(self.real_time_factor, 5),
        }
        if self.times.starts:
            value["word_times"] = self.times.to_dict()
        for group in groups:
            found = self.by_speaker() if group == "speaker" else self.by_length()
            value[f"by_{group}"] = {label: rates_to_dict(rates) for label, rates in found.items()}
        return value


def rates_to_dict(rates: ErrorRates) -> dict[str, object]:
    """A JSON value of error rates, counts and the WER's interval."""
    low, high = rates.wer_interval()
    return {
        "clips": rates.utterances,
        "reference_words": rates.words.reference,
        "wer": finite(rates.wer),
        "wer_interval_95": [finite(low), finite(high)],
        "cer": finite(rates.cer),
        "substitutions": rates.words.substitutions,
        "deletions": rates.words.deletions,
        "insertions": rates.words.insertions,
        "empty_references": rates.empty_references,
        "false_clips": rates.false_utterances,
        "false_words": rates.false_words,
    }


def evaluate(
    transcribe: Transcriber | WordTranscriber,
    cuts: CutSet,
    name: str,
    normalised: bool = False,
    under: Condition | None = None,
    said_when: Mapping[str, Sequence[TimedWord]] | None = None,
) -> Evaluation:
    """Transcribe every utterance, under a condition if one is given, and compare it with its text.

    Args:
        transcribe: times of words are compared if it gives them.
        said_when: when the words of an utterance are said, by its id, in place of what its cut
            says of it.

    Raises:
        DataError: an utterance has no transcript, or its recording cannot be decoded.
    """
    under = under or condition("clean")
    utterances: list[Utterance] = []
    audio_seconds = processing_seconds = 0.0
    times = WordTimes()
    progress = Console(stderr=True)
    for cut in track(
        list(cuts) if not cuts.is_lazy else cuts,
        description=f"{name}, {under.name}",
        console=progress,
        transient=True,
        disable=not progress.is_terminal,
    ):
        reference = transcript(cut)
        if reference is None:
            raise DataError(
                f"{cut.id} of {name} has no transcript, so nothing can be compared; an empty text "
                "would say that it holds no words"
            )
        recorded = load_waveform(cut)
        waveform = under.heard(recorded, cut.id)
        begin = time.perf_counter()
        heard = transcribe(waveform)
        processing_seconds += time.perf_counter() - begin
        if isinstance(heard, str):
            hypothesis = heard
        else:
            hypothesis = joined(heard)
            said = spans_of(cut) if said_when is None else said_when.get(cut.id, ())
            slower = len(waveform) / max(1, len(recorded))
            times += word_times([(w, a * slower, b * slower) for w, a, b in said], heard)
        seconds = len(waveform) / SAMPLE_RATE
        audio_seconds += seconds
        if normalised:
            reference, hypothesis = normalise(reference), normalise(hypothesis)
        speaker = next((part.speaker for part in cut.supervisions if part.speaker), None)
        utterances.append(Utterance(cut.id, speaker, seconds, reference, hypothesis))
    return Evaluation(
        name,
        under.name,
        tuple(utterances),
        error_rates([u.reference for u in utterances], [u.hypothesis for u in utterances]),
        audio_seconds,
        processing_seconds,
        times,
    )


def _length_group(seconds: float) -> str:
    return _label(next(i for i, bound in enumerate(LENGTHS) if seconds <= bound))


def _label(index: int) -> str:
    low, high = (0.0, *LENGTHS)[index], LENGTHS[index]
    return f"above {low:g} s" if math.isinf(high) else f"{low:g} to {high:g} s"
