"""What a Core ML package says about itself: the card, and a sentence about each tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobile_export.coreml_conversion import EXPERIMENTAL
from mobile_export.coreml_interpreter import MODEL, read_model
from mobile_export.coreml_programs import SAMPLE_COUNT, STEP, Function
from mobile_export.programs import Method, card
from rdsdk.errors import ModelError
from rdsdk.models.checkpoint import Checkpoint

CARD_KEY = "rdsdk.card"
"""In the user-defined metadata, where Xcode and ``MLModel.modelDescription`` show it too."""
MAIN = "main"
"""What Core ML calls the function of a package that has only one."""


def package_card(
    checkpoint: Checkpoint,
    functions: Mapping[str, Function],
    name: str,
    precision: str,
    ios: int,
    measured: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a package, a JSON value: that of a ``.pte`` with the functions as its methods.

    What only a package has is under ``package``: the least iOS, whether the precision is
    experimental, for each function the ``lengths`` in samples that it takes (empty: any between
    its bounds), and the shape in which Core ML keeps each state.
    """
    methods = {
        key: Method(
            module=function.module,
            example=(),
            dynamic_shapes=None,
            inputs=function.inputs,
            outputs=function.outputs,
            min_samples=function.min_samples,
            max_samples=function.max_samples,
        )
        for key, function in functions.items()
    }
    value = card(checkpoint, methods, name, precision, measured)
    if STEP not in functions:
        value["state"] = []
    states = functions[STEP].states if STEP in functions else {}
    value["package"] = {
        "ios": ios,
        "experimental": precision in EXPERIMENTAL,
        "lengths": {key: list(function.lengths) for key, function in functions.items()},
        "states": {key: list(shape) for key, shape in states.items()},
    }
    return value


def read_card(path: Path | str) -> dict[str, Any]:
    """The card of a package.

    Raises:
        ModelError: there is no package, or none of rdsdk.
        ExportError: coremltools is not installed.
    """
    path = Path(path)
    text = read_model(path).description.metadata.userDefined.get(CARD_KEY, "")
    try:
        value = json.loads(text)
        value["package"]["lengths"], value["methods"], value["architecture"]
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{path} has no card of rdsdk in its metadata ({CARD_KEY}); export the model again"
        ) from None
    if value.get("format") != "rdsdk":
        raise ModelError(f"{path} has a card of format {value.get('format')!r}, expected 'rdsdk'")
    return dict(value)


def describe(path: Path, card: Mapping[str, Any], author: str) -> None:
    """Write the card and what each tensor is into the metadata of a package, in place.

    Merging functions loses all of it, so this comes last.
    """
    model = read_model(path)
    metadata = model.description.metadata
    metadata.author = author
    metadata.license = str(card["licence"])
    metadata.versionString = str(card["rdsdk_version"])
    metadata.shortDescription = _summary(card)
    metadata.userDefined[CARD_KEY] = json.dumps(card)
    parts = list(model.description.functions) or [model.description]
    for part in parts:
        function = part.name if model.description.functions else next(iter(card["methods"]))
        texts = _texts(card, function)
        for feature in (*part.input, *part.output, *part.state):
            feature.shortDescription = texts[feature.name]
    (path / MODEL).write_bytes(model.SerializeToString())


def _summary(card: Mapping[str, Any]) -> str:
    does = "speech to text" if card["task"] == "ctc" else "speech to frame features"
    rate, hop = card["sample_rate"], card["hop_samples"]
    return (
        f"{card['name']}: {does} by an ARMHuBERT student ({card['parameters']:,} parameters, "
        f"{card['precision']}). Mono sound at {rate} Hz in [-1, 1]; {rate / hop:.0f} frames a "
        "second."
    )


def _texts(card: Mapping[str, Any], function: str) -> dict[str, str]:
    method, hop = card["methods"][function], card["hop_samples"]
    overlap = card["overlap_samples"]
    lengths = card["package"]["lengths"][function]
    if function == STEP:
        heard = (
            f"one chunk: {card['context']['chunk_frames']} frames of {hop} samples, and the "
            f"{overlap} samples after them, which the next call takes again"
        )
    elif lengths:
        heard = f"a recording, padded with zeros to one of {lengths} samples"
    else:
        heard = f"a recording of {method['min_samples']} to {method['max_samples']} samples"
    shared = overlap if function == STEP else card["receptive_field_samples"] - hop
    frames = f"one row a frame of {hop} samples, T = (samples - {shared}) / {hop} rounded down"
    if lengths:
        frames += f" of {SAMPLE_COUNT}; later rows mean nothing"
    texts = {
        "waveform": f"(1, samples), mono, in [-1, 1]: {heard}",
        SAMPLE_COUNT: "(1), how many samples of the waveform are no padding",
        "log_probs": f"(1, T, symbols), natural logarithms, blank included: {frames}",
        "hidden": f"(1, T, width), the last hidden state: {frames}",
    }
    shapes = {entry["name"]: tuple(entry["shape"]) for entry in card["state"]}
    what = {
        "positions": "last inputs of the position convolution",
        "keys": "last keys of each layer that computes an attention map",
        "values": "last values of every layer",
        "valid": "1 where keys and values hold a frame that was heard",
    }
    for name, shape in shapes.items():
        texts[name] = f"{what[name]}, {shape} in rows of 32; a new state is all zeros"
    return texts
