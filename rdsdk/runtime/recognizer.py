"""``load`` an artefact, ``transcribe`` a recording: the front door of the runtime."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

import rdsdk.pretrained
from rdsdk.audio import files
from rdsdk.audio.samples import SAMPLE_RATE, from_array, mono
from rdsdk.audio.speech_gate import SpeechGate
from rdsdk.decoding.segment import Segment
from rdsdk.decoding.settings import BeamSettings, Search
from rdsdk.errors import AudioError, DeviceError, ModelError
from rdsdk.runtime.card import Card
from rdsdk.runtime.ctrl_c import ctrl_c_waits
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.layers import program_of_layer
from rdsdk.runtime.program import Program
from rdsdk.runtime.stream import Stream, frame_source
from rdsdk.runtime.transcription import OnSegment, Transcription

DEFAULT_MODEL = "english"
_PIECE = 5 * SAMPLE_RATE  # as files are read
# A path; or (samples, sample rate); or blocks (S,) at 16 kHz as they come, as from a Microphone.
Source = str | Path | tuple[Any, float] | Iterable[np.ndarray]


class Recognizer:
    """A loaded model. It never changes, so threads may share it; each stream has its own state."""

    def __init__(self, program: Program) -> None:
        self._program = program

    @property
    def card(self) -> Card:
        """What the model says about itself: name, vocabulary, context, licence, measurements."""
        return self._program.card

    @property
    def card_json(self) -> str:
        """The card as it stands in the file."""
        return self._program.card_json

    @property
    def path(self) -> Path:
        """Where the model was loaded from."""
        return self._program.path

    @property
    def size_bytes(self) -> int:
        """The size of the model's file."""
        return self._program.size_bytes

    @property
    def search(self) -> BeamSettings | None:
        """How text is found unless a ``beam`` is given, None greedily; ``dataclasses.replace`` of
        it keeps the model's language model and lexicon.
        """
        return self._program.search

    def stream(
        self,
        rules: EndpointRules | None = None,
        partials: bool = True,
        *,
        gate: SpeechGate | None = None,
        beam: Search | None = None,
        hotwords: Sequence[str] = (),
    ) -> Stream:
        """A new listener; see ``Stream``. The first with a language model or with new hotwords
        takes a second or two to prepare; the next ones with the same share it.

        Raises:
            ModelError: the model gives features and no text, or the language model cannot be read.
            ConfigError: the package that a gate or a beam search needs is not installed, or a
                hotword cannot be written with the model's symbols.
        """
        return Stream(self._program, rules, partials, gate, beam, hotwords)

    def transcribe(
        self,
        source: Source,
        rules: EndpointRules | None = None,
        *,
        gate: SpeechGate | None = None,
        beam: Search | None = None,
        hotwords: Sequence[str] = (),
        partials: bool = False,
        on_segment: OnSegment | None = None,
    ) -> Transcription:
        """The segments of a recording or a microphone, each as soon as it is final.

        The result is iterated with ``for`` or ``async for``; see ``Transcription``.

        Args:
            source: a path; or ``(samples, sample_rate)`` with samples (S,) or (S, channels); or
                an iterable of blocks (S,) float32 at 16 kHz, which may never end, as a
                ``Microphone`` does.
            rules: when a segment is over.
            gate: no words outside speech; None hears words everywhere.
            beam: a beam search, with a language model if it names one, or "greedy"; None is
                ``search``, the model's own.
            hotwords: names and terms to expect; they need a beam search and start one.
            partials: also give what is still being said, each time it changes.
            on_segment: called with each segment as it is given.

        Raises:
            AudioError: the source cannot be read, or holds no sound. Samples that are not numbers
                in the midst of a recording raise after what was heard before them was given as
                final segments.
            DeviceError: the microphone cannot be opened, or went away; what was heard until then
                is given as final segments first, and so it is on Ctrl-C.
            ModelError: the model gives features and no text; or the language model cannot be read;
                or the model fails, after what it read before was given as final segments.
            ConfigError: the package that a gate or a beam search needs is not installed, or a
                hotword cannot be written with the model's symbols.
        """
        # Not a generator itself: a wrong path or model fails here and not at the first segment.
        stream = self.stream(rules, partials, gate=gate, beam=beam, hotwords=hotwords)
        stop = getattr(source, "stop", None)
        return Transcription(
            _segments(stream, _blocks(source)), on_segment, stop if callable(stop) else None
        )

    def features(self, source: Source, layer: int = -1) -> np.ndarray:
        """The hidden states (T, D) float32 of a recording, 50 a second.

        Args:
            source: as for ``transcribe``.
            layer: the number of the encoder layer, counted from 1, or -1 for the last one held.

        Raises:
            AudioError: the source cannot be read, or holds no sound.
            ModelError: the artefact does not hold that layer, or fails.
        """
        frames = frame_source(program_of_layer(self._program, layer))
        hidden = []
        for block in _blocks(source):
            hidden += [output.hidden for output in frames.feed(block)]
        hidden += [output.hidden for output in frames.finish()]
        return np.concatenate(hidden)


def bundled_models() -> dict[str, Path]:
    """The names that ``load`` knows without a path, and the files they stand for."""
    folders = [Path(folder) for folder in rdsdk.pretrained.__path__]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.pte"))}


def load(model: str | Path = DEFAULT_MODEL, threads: int | None = None) -> Recognizer:
    """Load a ``.pte`` by its path, or a bundled model by its name.

    Raises:
        ModelError: no such file or name, or not an intact artefact of rdsdk.
        ConfigError: ``threads`` is below one, or another model already runs with other threads.
    """
    return Recognizer(Program(model_path(model), threads))


def transcribe(
    source: Source,
    model: str | Path | Recognizer | None = None,
    *,
    rules: EndpointRules | None = None,
    gate: SpeechGate | None = None,
    beam: Search | None = None,
    hotwords: Sequence[str] = (),
    partials: bool = False,
    on_segment: OnSegment | None = None,
) -> Transcription:
    """The segments of a source: ``Recognizer.transcribe`` with a model kept loaded.

    Args:
        source, rules, gate, beam, hotwords, partials, on_segment: as for
            ``Recognizer.transcribe``.
        model: a recogniser, a path or a bundled name; None is the bundled default.

    Raises:
        AudioError, DeviceError, ModelError, ConfigError: as ``load`` and ``Recognizer.transcribe``.
    """
    if not isinstance(model, Recognizer):
        path = model_path(DEFAULT_MODEL if model is None else model)
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        model = _kept(path.absolute(), changed)
    return model.transcribe(
        source,
        rules,
        gate=gate,
        beam=beam,
        hotwords=hotwords,
        partials=partials,
        on_segment=on_segment,
    )


@lru_cache(maxsize=2)
def _kept(path: Path, changed: int) -> Recognizer:
    return load(path)


def model_path(model: str | Path) -> Path:
    """The file that a path or a bundled name stands for; it need not exist.

    Raises:
        ModelError: a bare name that no bundled model has.
    """
    path, bundled = Path(model), bundled_models()
    if isinstance(model, str) and model in bundled:
        return bundled[model]
    if isinstance(model, Path) or path.exists() or path.suffix or len(path.parts) != 1:
        return path
    names = ", ".join(sorted(bundled)) or "none in this installation"
    raise ModelError(
        f"no model is named {model!r}; bundled models: {names}. Give one of these or the path "
        "of a .pte file"
    )


def _blocks(source: Source) -> Iterator[np.ndarray]:
    if isinstance(source, (str, Path)):
        return files.read_blocks(source)
    if isinstance(source, tuple):
        if len(source) != 2 or not isinstance(source[1], Real):
            kinds = ", ".join(type(part).__name__ for part in source)
            raise AudioError(f"got a tuple of ({kinds}), expected (samples, sample rate in Hz)")
        return _pieces(from_array(*source))
    # A tensor is one, too, and each of its rows would be taken for a block.
    if hasattr(source, "__array__"):
        raise AudioError(
            "got an array without its sample rate; give (samples, sample_rate) instead"
        )
    if not isinstance(source, Iterable):
        raise AudioError(
            f"got a {type(source).__name__}, expected a path, (samples, sample_rate), or blocks "
            f"(S,) at {SAMPLE_RATE} Hz"
        )
    return _checked(iter(source))


def _checked(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    heard = False
    for number, block in enumerate(blocks):
        waveform = mono(block, f"block {number}")
        heard = heard or len(waveform) > 0
        yield from _pieces(waveform)
    if not heard:
        raise AudioError("the blocks held no samples")


def _pieces(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """What is long at once in portions, so that its first segments do not wait for its last."""
    for start in range(0, len(waveform), _PIECE):
        yield waveform[start : start + _PIECE]


def _segments(stream: Stream, blocks: Iterator[np.ndarray]) -> Generator[Segment, None, None]:
    """What was heard until something fails is given before it raises."""
    # Outlives what Ctrl-C interrupts, which may come between two of a block's segments, too.
    segments: Iterator[Segment] = iter(())
    at_rest = True
    with stream:
        try:
            try:
                for block in blocks:
                    at_rest = False
                    with ctrl_c_waits():
                        segments = iter(stream.feed(block))
                        at_rest = True
                    yield from segments
                at_rest = False
                with ctrl_c_waits():
                    segments = iter(stream.finish())
                    at_rest = True
                yield from segments
            except (AudioError, DeviceError):
                # The recording broke, or the microphone went away.
                yield from stream.finish()
                raise
            except KeyboardInterrupt:
                yield from segments
                # After a second one, which does not wait, nothing is sure of a half heard block.
                if at_rest:
                    yield from stream.finish()
                raise
        except ModelError:
            yield from stream.give_up()
            raise
