"""``rdsdk info``: what a model says about itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdsdk.decoding.rnnlm import RnnLm
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError
from rdsdk.runtime.card import Card
from rdsdk.runtime.recognizer import bundled_models, load

_MANY = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdsdk info``."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .pte or .rnnlm file, a bundled name or a checkpoint folder",
    )
    parser.add_argument("--json", action="store_true", help="the whole card as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the card of an artefact or a language model, or the description of a checkpoint."""
    # A bundled name is that model, whatever folder has the same name.
    if Path(arguments.model).is_dir() and arguments.model not in bundled_models():
        value = _checkpoint(Path(arguments.model))
        rows = list(value.items())
    elif Path(arguments.model).suffix == ".rnnlm":
        value = RnnLm(arguments.model).card
        rows = list({**value, "words": f"{len(value['words']):,}"}.items())
    else:
        recognizer = load(arguments.model)
        value = json.loads(recognizer.card_json)
        rows = _rows(recognizer.card, recognizer.path, recognizer.size_bytes)
    if arguments.json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return 0
    width = max(len(name) for name, _ in rows)
    for name, item in rows:
        print(f"{name:{width}}  {_text(item)}")
    return 0


def _rows(card: Card, path: Path, size_bytes: int) -> list[tuple[str, Any]]:
    if card.context is None:
        context = "full: a recording is heard as a whole"
    else:
        chunk_ms = 1000 * card.context.chunk_frames * card.frame_seconds
        left_seconds = card.context.left_frames * card.frame_seconds
        right_ms = 1000 * card.context.right_frames * card.frame_seconds
        context = (
            f"streaming: chunks of {chunk_ms:.0f} ms, {left_seconds:.2f} s of left and "
            f"{right_ms:.0f} ms of right context"
        )
    return [
        ("file", f"{path} ({size_bytes / 1e6:.2f} MB)"),
        ("name", card.name),
        ("language", card.language),
        ("task", card.task),
        ("parameters", f"{card.parameters:,}"),
        ("precision", card.precision),
        ("context", context),
        ("look-ahead", f"{card.lookahead_seconds:.2f} s"),
        ("state", f"{card.state_bytes / 1024:.0f} KiB a stream" if card.state else None),
        ("symbols", None if card.vocabulary is None else _symbols(card.vocabulary)),
        ("words", _words(card)),
        ("search", card.search.to_dict() if card.search else None),
        ("hidden layers", card.hidden_layers),
        ("architecture", _architecture(card.architecture)),
        ("licence", card.licence),
        ("training data", card.training_data),
        *_figures("measured", card.measured),
        *_figures("verification", card.verification),
        ("made by", f"rdsdk {card.rdsdk_version}"),
    ]


def _symbols(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(s for i, s in enumerate(vocabulary.symbols) if i != vocabulary.blank)


def _words(card: Card) -> Any:
    """Which words can come out; those of phones are in a lexicon."""
    if card.search is not None and card.search.lexicon is not None:
        return f"those of {Path(card.search.lexicon).name}"
    if card.vocabulary is None:
        return None
    if card.vocabulary.lexicon is not None:
        return card.vocabulary.lexicon
    return "any" if card.vocabulary.word_boundary is not None else "the symbols"


def _architecture(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """With each convolution as channels x kernel / stride."""
    shown = dict(architecture)
    if "convs" in shown:
        convs = [f"{c['channels']}x{c['kernel']}/{c['stride']}" for c in shown["convs"]]
        shown["convs"] = " ".join(convs)
    return shown


def _figures(name: str, figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """One row; a row for each group where there are groups."""
    groups = {group: item for group, item in figures.items() if isinstance(item, Mapping)}
    plain = {key: item for key, item in figures.items() if key not in groups}
    rows = [(name, plain)] if plain or not groups else []
    return rows + [(f"{name}: {group}", item) for group, item in groups.items()]


def _checkpoint(folder: Path) -> dict[str, Any]:
    description = folder / "model.json"
    try:
        value = json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no model.json; expected a folder with "
            "model.json and model.safetensors, or a .pte file"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{description} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{description} holds {type(value).__name__}, expected an object")
    return value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        shown = [_text(item) for item in value[:_MANY]]
        more = [f"and {len(value) - _MANY} more"] if len(value) > _MANY else []
        return ", ".join([*shown, *more]) or "none"
    return str(value)
