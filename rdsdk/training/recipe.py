"""A fine-tuning recipe: typed, read from YAML; a misspelt key is refused by name."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from rdsdk.data.augment import Augmentation
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.student import Student
from rdsdk.training.finetuning import Optimisation, Regularisation


@dataclass(frozen=True)
class StudentChoice:
    """Which student is fine-tuned: a preset from scratch, or a checkpoint folder's weights.

    Args:
        preset: a preset's name; exactly one of preset and checkpoint.
        checkpoint: a checkpoint folder (distilled, imported or fine-tuned before). Its CTC head is
            kept if it has the same vocabulary, its projection heads are left behind.
        context: makes a preset stream with this context; None keeps the preset's own.
        dropout: rate in training; None keeps the architecture's.
    """

    preset: str | None = None
    checkpoint: str | None = None
    context: Context | None = None
    dropout: float | None = None

    def build(self, vocabulary: Vocabulary) -> Student:
        """The student with a CTC head for ``vocabulary``."""
        if (self.preset is None) == (self.checkpoint is None):
            raise ConfigError(
                "student needs exactly one of preset and checkpoint, got "
                f"preset={self.preset!r}, checkpoint={self.checkpoint!r}"
            )
        source = None
        if self.preset is not None:
            config = preset(self.preset)
            if self.context is not None:
                config = config.streaming(self.context)
        else:
            assert self.checkpoint is not None
            if self.context is not None:
                raise ConfigError("student.context goes with a preset; a checkpoint has its own")
            source = checkpoint.load(self.checkpoint)
            config = source.student.config
        if self.dropout is not None:
            config = replace(config, dropout=self.dropout)
        student = Student(config, symbols=len(vocabulary))
        if source is not None:
            kept = source.vocabulary is not None and source.vocabulary.symbols == vocabulary.symbols
            weights = {
                name: tensor
                for name, tensor in source.student.state_dict().items()
                if not name.startswith("projections.") and (kept or not name.startswith("ctc_head"))
            }
            student.load_state_dict(weights, strict=kept)
        return student


@dataclass(frozen=True)
class Hardware:
    """Where it runs; any launcher that sets the torchrun variables works.

    Args:
        accelerator: cpu, gpu or auto.
        devices: how many in each node, or "auto".
        nodes: machines.
        strategy: lightning's: auto, ddp, fsdp, ...
        precision: lightning's: 32-true, bf16-mixed, ...
        compile: torch.compile the student.
        workers: loader processes for each device.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    workers: int = 1


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning run.

    Args:
        train: manifests (JSONL, LibriSpeech folder, lhotse cuts or Shar).
        dev: the same, for validation.
        output: the run's folder: best/, last/, resume.ckpt, dev.jsonl, TensorBoard events.
        student: what is fine-tuned.
        train_weights: how often each train manifest is drawn, relative to the others.
        units: what CTC writes: characters, or the whole words of the lexicon, far easier to learn
            where there are only a few.
        lexicon: closes the vocabulary to these words.
        optimisation, regularisation, augmentation: how it learns.
        batch_seconds: seconds of audio in a batch, for each device.
        longest_seconds: longer training utterances are left out.
        accumulate_batches: batches summed before a step.
        validate_every_steps, save_every_steps: how often.
        hardware: where.
        language: what is spoken, an ISO 639 code, for the card.
        licence: of the resulting weights, for the card.
        training_data: what the card says about the data.
        seed: of everything random.
    """

    train: list[str]
    dev: list[str]
    output: str
    student: StudentChoice = field(default_factory=StudentChoice)
    train_weights: list[float] | None = None
    units: Literal["characters", "words"] = "characters"
    lexicon: list[str] | None = None
    optimisation: Optimisation = field(default_factory=Optimisation)
    regularisation: Regularisation = field(default_factory=Regularisation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_seconds: float = 100.0
    longest_seconds: float = 30.0
    accumulate_batches: int = 1
    validate_every_steps: int = 1000
    save_every_steps: int = 500
    hardware: Hardware = field(default_factory=Hardware)
    language: str = "und"
    licence: str = "unknown"
    training_data: list[str] = field(default_factory=list)
    seed: int = 0

    def vocabulary(self) -> Vocabulary:
        """The symbols of the CTC head.

        Raises:
            ConfigError: words are asked for without a lexicon.
        """
        if self.units == "words":
            if not self.lexicon:
                raise ConfigError("units: words needs a lexicon that lists them")
            return Vocabulary.words(self.lexicon)
        return Vocabulary.characters(self.lexicon)


def recipe_file(name_or_file: str) -> Path:
    """The YAML of a recipe by file or by the name of one that ships with rdsdk.

    Raises:
        ConfigError: there is neither; the message lists the names.
    """
    path = Path(name_or_file)
    if path.is_file():
        return path
    folder = Path(str(resources.files("rdsdk.training"))) / "recipes"
    named = folder / f"{name_or_file}.yaml"
    if named.is_file():
        return named
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    raise ConfigError(
        f"no recipe {name_or_file!r}: neither a file nor one of {known}; give a YAML's path"
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="rdsdk finetune",
        description=(
            "Fine-tune a student for CTC recognition. Ctrl-C or SIGTERM ends the run after the "
            "current step and leaves resume.ckpt; the same command with --resume goes on."
        ),
        exit_on_error=False,
        # An abbreviation would let a misspelt key pass for another one.
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="a recipe's YAML file or name")
    parser.add_argument(
        "--resume", action="store_true", help="go on from resume.ckpt in the output folder"
    )
    parser.add_class_arguments(FinetuneRecipe)
    return parser


def read_recipe(arguments: Sequence[str]) -> tuple[FinetuneRecipe, bool]:
    """Command-line arguments -> the recipe, and whether to resume.

    ``--config NAME_OR_FILE`` gives the values, other options change single ones
    (``--optimisation.steps 100``).

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    expanded = list(arguments)
    for index, argument in enumerate(expanded):
        if argument == "--config" and index + 1 < len(expanded):
            expanded[index + 1] = str(recipe_file(expanded[index + 1]))
        elif argument.startswith("--config="):
            expanded[index] = "--config=" + str(recipe_file(argument.removeprefix("--config=")))
    parser = _parser()
    try:
        values = parser.instantiate_classes(parser.parse_args(expanded))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"the recipe cannot be used: {error}") from error
    chosen = {item.name: values[item.name] for item in fields(FinetuneRecipe)}
    return FinetuneRecipe(**chosen), bool(values["resume"])
