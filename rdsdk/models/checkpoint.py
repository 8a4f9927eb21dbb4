"""A checkpoint: a folder with ``model.safetensors`` (weights) and ``model.json`` (everything else).

The architecture, the vocabulary and the provenance are inside, so loading never needs a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rdsdk.pretrained
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models.config import Context, EncoderConfig
from rdsdk.models.student import Student

FORMAT = "rdsdk-checkpoint"
VERSION = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
_FIELDS = {"format", "version", "architecture", "vocabulary", "projection_width", "provenance"}


@dataclass
class Checkpoint:
    """A student with what is needed to understand its outputs and where it came from."""

    student: Student
    vocabulary: Vocabulary | None = None
    provenance: dict[str, object] = field(default_factory=dict)


def in_context(
    checkpoint: Checkpoint,
    chunk_frames: int | None,
    left_frames: int | None = None,
    right_frames: int | None = None,
) -> Checkpoint:
    """The same weights with another context: one student serves every latency.

    Raises:
        ConfigError: the student is a full-context one, whose convolutions and norms look ahead, or
            a number is out of range.
    """
    student = checkpoint.student
    before = student.config.context
    if before is None:
        raise ConfigError(
            "this is a full-context student, which has no chunks; leave chunk_frames, "
            "left_frames and right_frames out"
        )
    context = Context(
        before.chunk_frames if chunk_frames is None else chunk_frames,
        before.left_frames if left_frames is None else left_frames,
        before.right_frames if right_frames is None else right_frames,
    )
    return replace(checkpoint, student=student.copy(replace(student.config, context=context)))


def save(folder: Path | str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint folder; files are replaced whole, so a crash never leaves half of one.

    Raises:
        CheckpointError: the student is sharded (see ``write_whole``).
    """
    folder = Path(folder)
    student = checkpoint.student
    description: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": student.config.to_dict(),
        "vocabulary": None if checkpoint.vocabulary is None else checkpoint.vocabulary.to_dict(),
        "projection_width": student.projection_width,
        "provenance": checkpoint.provenance,
    }
    return write_whole(folder, WEIGHTS, student, DESCRIPTION, description)


def write_whole(
    folder: Path, weights: str, module: nn.Module, description: str, described: dict[str, object]
) -> Path:
    """Write a module's weights in float32 and a description, files of these names, into a folder.

    Each is replaced whole, so a crash never leaves half of one.

    Raises:
        CheckpointError: a weight is not all here, but shared out over processes; nothing is
            written.
    """
    held = module.state_dict()
    # Its storage is not to be asked for: it has none, and safetensors would only find out late.
    if parts := [name for name, tensor in held.items() if type(tensor) is not Tensor]:
        raise CheckpointError(
            f"{len(parts)} of {len(held)} weights are a {type(held[parts[0]]).__name__}, not a "
            f"whole Tensor (the first is {parts[0]}); gather a sharded student with "
            "rdsdk.training.sharding.whole, in all processes, and save what it gives"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in held.items()
    }
    save_file(tensors, folder / (weights + ".part"))
    (folder / (description + ".part")).write_text(json.dumps(described, indent=1) + "\n")
    for name in (weights, description):
        (folder / (name + ".part")).replace(folder / name)
    return folder


def located(folder: Path | str) -> Path:
    """The folder, or, where there is none and bundled weights have that name, the folder of those.

    They are in the repository; an installed package has the artefacts alone.
    """
    folder = Path(folder)
    if folder.is_dir() or len(folder.parts) != 1:
        return folder
    homes = [Path(home) / folder for home in rdsdk.pretrained.__path__]
    return next((home for home in homes if home.is_dir()), folder)


def is_saved(folder: Path | str) -> bool:
    """Whether a folder, or a bundled name, is a student's checkpoint."""
    return (located(folder) / DESCRIPTION).is_file()


def load(folder: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or the one of a bundled model by its name; the student is in eval
    mode on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, the format is newer, or weights are missing,
            left over or of another shape than the architecture says; the message names them.
    """
    folder = located(folder)
    description = read_description(folder)
    try:
        config = EncoderConfig.from_dict(description["architecture"])  # type: ignore[arg-type]
        vocabulary = (
            None
            if description["vocabulary"] is None
            else Vocabulary.from_dict(description["vocabulary"])  # type: ignore[arg-type]
        )
    except ConfigError as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from error
    width = description["projection_width"]
    student = Student(
        config,
        symbols=None if vocabulary is None else len(vocabulary),
        projection_width=width if isinstance(width, int) else None,
    )
    load_weights(student, read_weights(folder, DESCRIPTION), str(folder / WEIGHTS))
    provenance = description["provenance"]
    assert isinstance(provenance, dict)
    return Checkpoint(student.eval(), vocabulary, provenance)


def read_description(folder: Path | str) -> dict[str, object]:
    """The content of ``model.json``, checked for format, version and fields.

    Raises:
        CheckpointError: as ``load``.
    """
    path = located(folder) / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {DESCRIPTION}; expected a folder with "
            f"{DESCRIPTION} and {WEIGHTS}, as `rdsdk finetune` and `rdsdk import` write, or, in a "
            "clone of the repository, the name of a bundled model"
        )
    description = described(path, FORMAT, VERSION, _FIELDS)
    if not isinstance(description["architecture"], dict):
        raise CheckpointError(f"{path}: 'architecture' must be an object")
    if not isinstance(description["provenance"], dict):
        raise CheckpointError(f"{path}: 'provenance' must be an object")
    return description


def described(path: Path, form: str, version: int, names: Set[str]) -> dict[str, object]:
    """A JSON file that says its format and version and has just these fields.

    Raises:
        CheckpointError: it is not JSON, or of another format, version or other fields.
    """
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != form:
        raise CheckpointError(f"{path} does not describe an rdsdk checkpoint (no format {form!r})")
    if description.get("version") != version:
        raise CheckpointError(
            f"{path} has version {description.get('version')!r}, this rdsdk reads {version}; "
            "a newer rdsdk wrote it: upgrade rdsdk"
        )
    if set(description) != names:
        missing, unknown = sorted(names - set(description)), sorted(set(description) - names)
        raise CheckpointError(f"{path}: fields missing {missing}, unknown {unknown}")
    return description


def read_weights(folder: Path, description: str) -> dict[str, Tensor]:
    """The weights beside a description, by their names.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a checkpoint needs it beside {description}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint again") from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a module, all of them and nothing else.

    Raises:
        CheckpointError: names what is missing, left over or of another shape.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    misshapen = [
        f"{name}: got {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if missing or unknown or misshapen:
        faults = [
            f"{title} ({len(names)}): {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for title, names in (
                ("missing weights", missing),
                ("unknown weights", unknown),
                ("misshapen weights", misshapen),
            )
            if names
        ]
        raise CheckpointError(f"{source} does not fit its architecture; " + "; ".join(faults))
    module.load_state_dict(dict(weights))
