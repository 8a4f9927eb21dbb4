"""What an artefact says about itself: one JSON string inside the ``.pte``, typed and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from rdsdk.decoding.settings import BeamSettings
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, ModelError

CARD_VERSION = 1
OVERLAP_SAMPLES = 80  # receptive field less hop: what one frame shares with the next
WAVEFORM = "waveform"


@dataclass(frozen=True)
class Context:
    """A streaming encoder's chunk, and what it sees before and beyond it, in frames."""

    chunk_frames: int
    left_frames: int
    right_frames: int = 0


@dataclass(frozen=True)
class Method:
    """One method of the program: tensor names in order, and how many samples a call may hold.

    ``forward`` is always there. ``step``, in streaming artefacts, takes exactly one chunk.
    ``features`` takes what ``forward`` takes and gives the hidden states of several layers.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    min_samples: int
    max_samples: int


@dataclass(frozen=True)
class Card:
    """The card of an artefact of version 1.

    ``context`` is None for a full-context (bidirectional) encoder; then ``state`` is empty.
    ``overlap_samples`` are what a call of a stream shares with the next: the rest of its last
    frame, and the frames of right context, which are read with the chunk but belong to the next.
    ``state`` maps the name of each state tensor to its shape; a fresh state is all zeros.
    """

    name: str
    language: str
    task: str
    parameters: int
    vocabulary: Vocabulary | None
    sample_rate: int
    hop_samples: int
    receptive_field_samples: int
    overlap_samples: int
    context: Context | None
    lookahead_seconds: float
    precision: str
    methods: Mapping[str, Method]
    state: Mapping[str, tuple[int, ...]]
    hidden_layers: tuple[int, ...]
    licence: str
    training_data: tuple[str, ...]
    measured: Mapping[str, Any]
    rdsdk_version: str
    architecture: Mapping[str, Any] = field(repr=False)
    verification: Mapping[str, Any] = field(default_factory=dict)
    """What was found when the artefact was compared with its checkpoint; empty in older ones."""
    search: BeamSettings | None = None
    """How its text is found unless another way is asked for; its files lie beside the artefact.
    None is greedily."""

    @classmethod
    def from_json(cls, text: str, source: str = "this artefact") -> Card:
        """Parse and check a card.

        Raises:
            ModelError: not JSON, not a card of this project, of a newer version, or with a field
                missing, of the wrong type, or contradicting another.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ModelError(
                f"{source}: its card is not JSON ({error}); export the model again"
            ) from None
        if not isinstance(value, dict) or value.get("format") != "rdsdk":
            raise ModelError(
                f"{source}: its card is not one of rdsdk; expected a JSON object with "
                '"format": "rdsdk"'
            )
        version = value.get("version")
        if not isinstance(version, int) or version < 1:
            raise ModelError(f"{source}: its card has version {version!r}, expected {CARD_VERSION}")
        if version > CARD_VERSION:
            raise ModelError(
                f"{source}: its card has version {version}, this rdsdk reads up to "
                f"{CARD_VERSION}; upgrade rdsdk"
            )
        try:
            card = _parse(value)
            _check(card)
        except _CardFault as fault:
            raise ModelError(
                f"{source}: its card is damaged: {fault}; export the model again"
            ) from None
        except ConfigError as error:
            raise ModelError(
                f"{source}: the vocabulary or the search of its card is damaged: {error}"
            ) from None
        return card

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop_samples / self.sample_rate

    def expected_outputs(self, method: str) -> tuple[str, ...]:
        """The names of what a method gives, by its own name."""
        if method == "features":
            return (*(f"hidden_{layer}" for layer in self.hidden_layers), *self.state)
        return (*(("log_probs",) if self.task == "ctc" else ()), "hidden", *self.state)

    @property
    def chunk_samples(self) -> int:
        """Samples by which a stream advances at a time; 0 for a full-context encoder."""
        return 0 if self.context is None else self.context.chunk_frames * self.hop_samples

    @property
    def state_bytes(self) -> int:
        """What the program remembers of a stream between two chunks."""
        return sum(4 * prod(shape) for shape in self.state.values())


class _CardFault(Exception):
    pass


def _parse(value: Mapping[str, Any]) -> Card:
    vocabulary = _get(value, "vocabulary", dict, optional=True)
    context = _get(value, "context", dict, optional=True)
    return Card(
        name=_get(value, "name", str),
        language=_get(value, "language", str),
        task=_get(value, "task", str),
        architecture=_get(value, "architecture", dict),
        parameters=_get(value, "parameters", int),
        vocabulary=None if vocabulary is None else Vocabulary.from_dict(vocabulary),
        sample_rate=_positive(value, "sample_rate"),
        hop_samples=_positive(value, "hop_samples"),
        receptive_field_samples=_positive(value, "receptive_field_samples"),
        # Cards of before right context do not name it.
        overlap_samples=_positive({"overlap_samples": OVERLAP_SAMPLES, **value}, "overlap_samples"),
        context=None
        if context is None
        else Context(
            _positive(context, "chunk_frames"),
            _positive(context, "left_frames"),
            _get({"right_frames": 0, **context}, "right_frames", int),
        ),
        lookahead_seconds=float(_get(value, "lookahead_seconds", (int, float))),
        precision=_get(value, "precision", str),
        methods={
            name: Method(
                inputs=_texts(method, "inputs"),
                outputs=_texts(method, "outputs"),
                min_samples=_positive(method, "min_samples"),
                max_samples=_positive(method, "max_samples"),
            )
            for name, method in _get(value, "methods", dict).items()
        },
        state={_get(s, "name", str): _integers(s, "shape") for s in _get(value, "state", list)},
        hidden_layers=_integers(value, "hidden_layers"),
        licence=_get(value, "licence", str),
        training_data=_texts(value, "training_data"),
        measured=_get(value, "measured", dict),
        rdsdk_version=_get(value, "rdsdk_version", str),
        verification=_get(value, "verification", dict) if "verification" in value else {},
        search=BeamSettings.from_dict(value["search"]) if value.get("search") else None,
    )


def _check(card: Card) -> None:
    if card.task not in ("ctc", "features"):
        raise _CardFault(f'task is {card.task!r}, expected "ctc" or "features"')
    if card.task == "ctc" and card.vocabulary is None:
        raise _CardFault("task is ctc, but there is no vocabulary")
    if card.receptive_field_samples - card.hop_samples != OVERLAP_SAMPLES:
        raise _CardFault(
            f"a frame of {card.receptive_field_samples} samples every {card.hop_samples} does not "
            f"overlap by {OVERLAP_SAMPLES} samples"
        )
    right = 0 if card.context is None else card.context.right_frames
    shared = OVERLAP_SAMPLES + card.hop_samples * right
    if right < 0 or card.overlap_samples != shared:
        raise _CardFault(
            f"overlap_samples is {card.overlap_samples}, expected {shared} with {right} frames of "
            "right context"
        )
    if "forward" not in card.methods:
        raise _CardFault(f"no method forward among {sorted(card.methods)}")
    for name, method in card.methods.items():
        outputs = card.expected_outputs(name)
        if method.inputs != (WAVEFORM, *card.state) or method.outputs != outputs:
            raise _CardFault(
                f"{name} has inputs {list(method.inputs)} and outputs {list(method.outputs)}, "
                f"expected {[WAVEFORM, *card.state]} and {list(outputs)}"
            )
        if not card.receptive_field_samples <= method.min_samples <= method.max_samples:
            raise _CardFault(
                f"{name} takes {method.min_samples} to {method.max_samples} samples, expected at "
                f"least {card.receptive_field_samples} and an upper bound above the lower"
            )
    if (card.context is None) != (not card.state):
        raise _CardFault("a streaming context and a state go together, but only one is there")
    chunk = card.chunk_samples + card.overlap_samples
    if card.context is not None:
        method = card.methods["forward"]
        if not method.min_samples <= chunk <= method.max_samples:
            raise _CardFault(
                f"a chunk of {chunk} samples is outside forward's {method.min_samples} to "
                f"{method.max_samples}"
            )
    step = card.methods.get("step")
    if step is not None and (
        card.context is None or {step.min_samples, step.max_samples} != {chunk}
    ):
        raise _CardFault(
            f"step takes {step.min_samples} to {step.max_samples} samples, expected one chunk of a "
            "streaming context"
        )
    _positive(card.architecture, "width")
    if not card.hidden_layers or list(card.hidden_layers) != sorted(set(card.hidden_layers)):
        raise _CardFault(f"hidden_layers is {list(card.hidden_layers)}, expected rising numbers")
    if len(card.hidden_layers) > 1 and "features" not in card.methods:
        raise _CardFault(f"no method gives the hidden layers {list(card.hidden_layers)}")


def _get(value: object, name: str, kind: Any, optional: bool = False) -> Any:
    if not isinstance(value, Mapping):
        raise _CardFault(f"expected an object with {name}, got {value!r}")
    if name not in value:
        raise _CardFault(f"{name} is missing")
    got = value[name]
    if optional and got is None:
        return None
    # JSON's true would pass for an integer.
    if not isinstance(got, kind) or isinstance(got, bool):
        raise _CardFault(f"{name} is {got!r}, which has the wrong type")
    return got


def _positive(value: object, name: str) -> int:
    got: int = _get(value, name, int)
    if got < 1:
        raise _CardFault(f"{name} is {got}, expected a positive number")
    return got


def _texts(value: object, name: str) -> tuple[str, ...]:
    got = _get(value, name, list)
    if not all(isinstance(item, str) for item in got):
        raise _CardFault(f"{name} is {got!r}, expected a list of text")
    return tuple(got)


def _integers(value: object, name: str) -> tuple[int, ...]:
    got = _get(value, name, list)
    if not all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in got):
        raise _CardFault(f"{name} is {got!r}, expected a list of positive integers")
    return tuple(got)
