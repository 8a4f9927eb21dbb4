"""What every training recipe has, and how one is read: YAML and command line, typed, strict."""

from __future__ import annotations

import dataclasses
import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from jsonargparse import ArgumentParser, Namespace

from rdsdk.data.augment import Augmentation
from rdsdk.errors import ConfigError

Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"]

_ASSIGNMENT = re.compile(r"[a-z_][a-z0-9_.]*=")
_FLAGS = ("--resume", "--dry-run")
"""Options without a value."""


@dataclass(frozen=True)
class Hardware:
    """Where it runs; any launcher that sets the torchrun variables works.

    Args:
        accelerator: cpu, gpu or auto.
        devices: how many in each node, or "auto".
        nodes: machines.
        strategy: how several devices share the work. ``auto`` is one device or ddp; ``ddp`` keeps
            every weight on every device, ``ddp_find_unused_parameters_true`` too and bears weights
            without a gradient; ``fsdp`` shards the student, see ``rdsdk.training.sharding``.
        precision: lightning's: 32-true, bf16-mixed, ...
        compile: torch.compile the layers of the student's encoder.
        workers: loader processes for each device.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    nodes: int = 1
    strategy: Strategy = "auto"
    precision: str = "32-true"
    compile: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigError(
                f"unknown hardware.strategy {self.strategy!r}; use one of "
                f"{', '.join(get_args(Strategy))}"
            )
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ConfigError(
                "hardware.strategy fsdp scales no losses, which precision 16-mixed needs; use "
                "bf16-mixed, or another strategy"
            )
        if self.strategy == "fsdp" and self.compile:
            raise ConfigError(
                "hardware.strategy fsdp and hardware.compile were never run together; leave "
                "compile out, or use ddp"
            )


@dataclass(frozen=True)
class RunRecipe:
    """What a run needs, whatever it teaches.

    Args:
        train: manifests (JSONL, LibriSpeech folder, lhotse cuts or Shar).
        dev: the same, for validation.
        output: the run's folder: best/, last/, resume.ckpt, dev.jsonl, TensorBoard events.
        train_weights: how often each train manifest is drawn, relative to the others.
        augmentation: what happens to training waveforms.
        batch_seconds: seconds of audio in a batch, for each device.
        longest_seconds: longer training utterances are left out.
        accumulate_batches: batches summed before a step.
        validate_every_steps, save_every_steps: how often.
        hardware: where.
        wandb: a Weights & Biases project to log to as well; needs the package wandb.
        licence: of the resulting weights, for the card.
        training_data: what the card says about the data.
        seed: of everything random.
    """

    train: list[str]
    dev: list[str]
    output: str
    train_weights: list[float] | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_seconds: float = 100.0
    longest_seconds: float = 30.0
    accumulate_batches: int = 1
    validate_every_steps: int = 1000
    save_every_steps: int = 500
    hardware: Hardware = field(default_factory=Hardware)
    wandb: str | None = None
    licence: str = "unknown"
    training_data: list[str] = field(default_factory=list)
    seed: int = 0

    def plain(self) -> dict[str, object]:
        """The recipe as JSON values (tuples become lists)."""

        def plain(value: object) -> object:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [plain(item) for item in value]
            return value

        values = plain(dataclasses.asdict(self))
        assert isinstance(values, dict)
        return values


Recipe = TypeVar("Recipe", bound=RunRecipe)


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


def recipe_parser(kind: type[RunRecipe], program: str, description: str) -> ArgumentParser:
    """A parser of ``--config``, ``--resume`` and every field of a recipe class."""
    parser = ArgumentParser(
        prog=program,
        description=(
            f"{description} Ctrl-C or SIGTERM ends the run after the current step and leaves "
            "resume.ckpt; the same command with --resume goes on."
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
    parser.add_class_arguments(kind)
    return parser


def parse_recipe(
    parser: ArgumentParser, kind: type[Recipe], arguments: Sequence[str]
) -> tuple[Recipe, Mapping[str, Any]]:
    """Command-line arguments -> the recipe, and all values of the parser.

    ``--config NAME_OR_FILE`` gives the values, other options change single ones, as
    ``--optimisation.steps 100`` or as ``optimisation.steps=100``.

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    try:
        values: Namespace = parser.instantiate_classes(parser.parse_args(_expanded(arguments)))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"the recipe cannot be used: {error}") from error
    chosen = {item.name: values[item.name] for item in fields(kind)}
    return kind(**chosen), vars(values)


def _expanded(arguments: Sequence[str]) -> list[str]:
    """Recipe names made files, and ``key=value`` made ``--key=value``."""
    expanded: list[str] = []
    is_value = False
    for argument in arguments:
        if expanded and expanded[-1] == "--config":
            argument = str(recipe_file(argument))
        elif argument.startswith("--config="):
            argument = "--config=" + str(recipe_file(argument.removeprefix("--config=")))
        elif _ASSIGNMENT.match(argument) and not is_value:
            argument = f"--{argument}"
        takes_value = "=" not in argument and argument not in _FLAGS
        is_value = argument.startswith("--") and takes_value
        expanded.append(argument)
    return expanded
