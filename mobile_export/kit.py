"""A folder for the phone developer: artefact, card, test vectors, a streaming sample, a README."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobile_export.vectors import (
    TOLERANCE_FLOAT,
    TOLERANCE_QUANTISED,
    Step,
    Streaming,
    Vectors,
    make_vectors,
    program_step,
)
from rdsdk.audio import files
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.runtime.program import Program

PLATFORMS = {"android": ".pte", "ios": ".mlpackage", "cpp": ".pte"}
"""What a kit can be for, and the ending of the artefact that it takes."""

KITS = Path(__file__).parent / "kits"
RECORDING = KITS / "recording.flac"
_FLOAT_PRECISIONS = ("fp32",)


@dataclass(frozen=True)
class Kit:
    """A kit that was written: its folder, the artefact in it and the vectors it can be tried by."""

    folder: Path
    platform: str
    artefact: Path
    vectors: Vectors
    greedy_only: str
    """What its samples write is not what rdsdk writes, and why; "" if it is."""


def write_kit(
    artefact: Path | str,
    platform: str,
    folder: Path | str,
    recording: Path | str = RECORDING,
    *,
    step: Step | None = None,
    card_json: str | None = None,
) -> Kit:
    """Write a kit; ``folder`` must be new or empty, and is left alone when something fails.

    Args:
        artefact: a streaming ``.pte`` for ``android`` and ``cpp``, an ``.mlpackage`` for ``ios``.
        platform: one of ``PLATFORMS``.
        recording: speech for the test vectors; the default is ten digits (CC BY-SA 4.0).
        step: what the vectors are computed with. A ``.pte`` is run itself; a package cannot be run
            everywhere, so it needs one, as from an interpreter of the package.
        card_json: the card of a package; a ``.pte`` holds its own.

    Raises:
        ExportError: an unknown platform, an artefact of another kind or one that does not stream
            text, a folder that is in use, or a package without ``step`` or ``card_json``.
        ModelError: the ``.pte`` cannot be loaded or run.
        AudioError: the recording cannot be read.
    """
    artefact, folder = Path(artefact), Path(folder)
    if platform not in PLATFORMS:
        raise ExportError(f"no kit is for {platform!r}; there are {sorted(PLATFORMS)}")
    if artefact.suffix != PLATFORMS[platform]:
        raise ExportError(
            f"{artefact} cannot go into a kit for {platform}: it takes a {PLATFORMS[platform]}"
        )
    require_free(folder)
    if artefact.suffix == ".pte":
        program = Program(artefact)
        card_json = program.card_json
        step = program_step(program)
    elif step is None or card_json is None:
        raise ExportError(
            f"{artefact} is not run here: give its card_json, and a step that "
            "computes what it should give"
        )
    card = Streaming.from_json(card_json)
    tolerance = TOLERANCE_FLOAT if card.precision in _FLOAT_PRECISIONS else TOLERANCE_QUANTISED
    vectors = make_vectors(card, step, files.read(recording), tolerance)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".kit-") as temporary:
        made = Path(temporary) / "kit"
        shutil.copytree(KITS / platform, made)
        _copy(artefact, made / f"model{artefact.suffix}")
        pretty = json.dumps(json.loads(card_json), indent=2, ensure_ascii=False)
        (made / "card.json").write_text(pretty + "\n", encoding="utf-8")
        vectors.write(made / "vectors")
        greedy_only = _greedy_only(card)
        facts = _facts(card, vectors, made / f"model{artefact.suffix}") | {"GREEDY": greedy_only}
        _fill_in(made / "README.md", facts)
        if folder.exists():
            folder.rmdir()
        made.replace(folder)
    return Kit(folder, platform, folder / f"model{artefact.suffix}", vectors, greedy_only)


def require_suited(checkpoint: Checkpoint) -> None:
    """Raise ExportError if there can be no kit of a checkpoint: samples stream and write text."""
    if checkpoint.student.config.context is None or checkpoint.vocabulary is None:
        lacks = "text" if checkpoint.vocabulary is None else "chunked context"
        raise ExportError(
            f"a kit is of a streaming student that writes text, and this one has no {lacks}; "
            "export it without --kit"
        )


def require_free(folder: Path) -> None:
    """Raise ExportError if a kit cannot be written there."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ExportError(f"{folder} is in use; give the name of a new folder for the kit")
    if not folder.parent.is_dir():
        raise ExportError(f"{folder.parent} is not a folder; make it first")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _size_bytes(path: Path) -> int:
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _greedy_only(card: Streaming) -> str:
    """Why the samples' text, the likeliest symbols, is not rdsdk's; "" if it is."""
    if card.vocabulary.is_of_phones:
        return (
            "The symbols of this model are phones: rdsdk makes words of them by a search through a "
            "lexicon and a language model, which these samples do not have. They show phones."
        )
    if card.vocabulary.lexicon is not None:
        return (
            "The model's vocabulary is closed to a lexicon. rdsdk corrects words outside it; these "
            "samples do not, so their text can differ from rdsdk's."
        )
    return ""


def _facts(card: Streaming, vectors: Vectors, artefact: Path) -> dict[str, Any]:
    """What the README says about this very kit."""
    return {
        "NAME": card.name,
        "PRECISION": card.precision,
        "MEGABYTES": f"{_size_bytes(artefact) / 1e6:.1f}",
        "LICENCE": card.licence,
        "CHUNK_MS": round(1000 * card.chunk_frames * card.frame_seconds),
        "CHUNK_FRAMES": card.chunk_frames,
        "SAMPLES_A_CALL": vectors.inputs.shape[1],
        "STATE_KIB": round(4 * card.state_values / 1024),
        "CALLS": len(vectors.inputs),
        "TOLERANCE": vectors.tolerance,
        "TEXT": vectors.text,
        "OVERLAP": card.overlap_samples,
        "EXECUTORCH": version("executorch"),
        "RDSDK": version("rdsdk"),
    }


def _fill_in(path: Path, facts: dict[str, Any]) -> None:
    """Put each fact where the text names it, like @NAME@."""
    text = path.read_text(encoding="utf-8")
    for name, value in facts.items():
        text = text.replace(f"@{name}@", str(value))
    path.write_text(text, encoding="utf-8")
