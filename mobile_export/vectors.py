"""Test vectors: what a phone must hear and say, in files that any language reads without a library.

A folder of vectors holds

- ``index.tsv``: a name, a tab and a value on each line;
- ``inputs.f32``: the waveforms of consecutive calls, (calls, samples a call);
- ``log_probs.f32``: what each call gave, (calls, frames a chunk, symbols);
- ``recording.wav``: the sound they were cut from, 16 kHz, mono, 16 bit.

``.f32`` is little-endian float32 without a header. The first call is a chunk of silence with a
state of zeros, which is how a stream begins; each later one goes on with the state of the one
before. The text is read from ``heard_frames`` frames after the first call's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rdsdk.audio.frames import streamed_frames
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ExportError
from rdsdk.runtime.card import OVERLAP_SAMPLES
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.program import Program
from rdsdk.runtime.segmenter import Segmenter

Step = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]
"""(waveform (S,) of one chunk, state; None is fresh) -> (log_probs (T, V), state)."""

TOLERANCE_FLOAT = 1e-3
TOLERANCE_QUANTISED = 0.25
"""Largest difference of a log probability that another processor may explain.

Where activations are quantised, rounding decides between neighbouring steps: changing the samples
by one part in ten million moved the log_probs of the bundled int8 model by up to 0.07.
"""


@dataclass(frozen=True)
class Streaming:
    """What a sample needs of a card, that of a ``.pte`` or of a package."""

    name: str
    precision: str
    licence: str
    vocabulary: Vocabulary
    sample_rate: int
    hop_samples: int
    overlap_samples: int
    chunk_frames: int
    state_values: int

    @classmethod
    def from_json(cls, text: str) -> Streaming:
        """Read a card.

        Raises:
            ExportError: it is not one of a streaming model that gives text.
        """
        try:
            card = json.loads(text)
            # A package that holds only the function for whole recordings has no state.
            if card["context"] is None or card["vocabulary"] is None or not card["state"]:
                raise ExportError(
                    f"{card['name']} is no streaming model that gives text; a kit needs a student "
                    "with a context and a vocabulary, and its method step"
                )
            return cls(
                name=card["name"],
                precision=card["precision"],
                licence=card["licence"],
                vocabulary=Vocabulary.from_dict(card["vocabulary"]),
                sample_rate=card["sample_rate"],
                hop_samples=card["hop_samples"],
                overlap_samples=card.get("overlap_samples", OVERLAP_SAMPLES),
                chunk_frames=card["context"]["chunk_frames"],
                state_values=sum(prod(entry["shape"]) for entry in card["state"]),
            )
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise ExportError(f"this card is damaged: {type(error).__name__}: {error}") from error

    @property
    def chunk_samples(self) -> int:
        """Samples by which a stream advances at a time."""
        return self.chunk_frames * self.hop_samples

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop_samples / self.sample_rate


@dataclass(frozen=True)
class Vectors:
    """Consecutive calls of a streaming model, and the text that they say.

    ``waveform`` (S,), ``inputs`` (calls, samples a call), ``log_probs`` (calls, T, V).
    """

    waveform: np.ndarray
    inputs: np.ndarray
    log_probs: np.ndarray
    heard_frames: int
    tolerance: float
    text: str

    def write(self, folder: Path) -> None:
        """Write the files of the vectors into a new folder."""
        folder.mkdir()
        calls, frames, symbols = self.log_probs.shape
        index = {
            "calls": calls,
            "samples_a_call": self.inputs.shape[1],
            "frames_a_call": frames,
            "symbols": symbols,
            "heard_frames": self.heard_frames,
            "tolerance": self.tolerance,
            "text": self.text,
        }
        lines = "".join(f"{name}\t{value}\n" for name, value in index.items())
        (folder / "index.tsv").write_text(lines, encoding="utf-8")
        for name, values in (("inputs", self.inputs), ("log_probs", self.log_probs)):
            (folder / f"{name}.f32").write_bytes(values.astype("<f4").tobytes())
        pcm = np.round(self.waveform * 32768).astype(np.int16)
        soundfile.write(folder / "recording.wav", pcm, SAMPLE_RATE, subtype="PCM_16")


def program_step(program: Program) -> Step:
    """The step of a ``.pte`` in ExecuTorch."""

    def step(waveform: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        output = program.step(waveform, state)
        assert output.log_probs is not None
        return output.log_probs, output.state

    return step


def make_vectors(
    card: Streaming, step: Step, waveform: np.ndarray, tolerance: float = TOLERANCE_FLOAT
) -> Vectors:
    """Cut a recording (S,) at 16 kHz into chunks and let the model hear them.

    The text is greedy and closed by the same rules as a stream's; a lexicon is left out, because
    the samples have none.

    Raises:
        ExportError: the recording is empty, or the model gives log_probs of another shape than
            its card says.
    """
    if not len(waveform):
        raise ExportError("the recording of the test vectors is empty; give another")
    # As the 16-bit file will hold it, so that every reader hears the same.
    waveform = np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.float32) / 32768
    chunk, whole = card.chunk_samples, card.chunk_samples + card.overlap_samples
    heard = streamed_frames(len(waveform), card.hop_samples, OVERLAP_SAMPLES)
    chunks = ceil(heard / card.chunk_frames)
    padded = np.pad(waveform, (0, max(0, chunks * chunk + card.overlap_samples - len(waveform))))
    starts = range(0, chunks * chunk, chunk)
    inputs = np.stack([np.zeros(whole, np.float32), *(padded[s : s + whole] for s in starts)])
    outputs: list[np.ndarray] = []
    state: Any = None
    for block in inputs:
        log_probs, state = step(block, state)
        if log_probs.shape != (card.chunk_frames, len(card.vocabulary)):
            raise ExportError(
                f"{card.name} gave log_probs of shape {log_probs.shape} for one chunk, its card "
                f"says {(card.chunk_frames, len(card.vocabulary))}"
            )
        outputs.append(log_probs)
    decoder = GreedyDecoder(replace(card.vocabulary, lexicon=None), card.frame_seconds)
    segmenter = Segmenter(decoder, EndpointRules())
    segments = segmenter.feed(np.concatenate(outputs[1:])[:heard])
    segments += segmenter.finish(heard * card.frame_seconds)
    text = " ".join(segment.text for segment in segments)
    return Vectors(waveform, inputs, np.stack(outputs), heard, tolerance, text)
