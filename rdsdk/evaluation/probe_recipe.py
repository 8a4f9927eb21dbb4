"""A probe's recipe: typed, read from YAML; a misspelt key is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lhotse import CutSet

from rdsdk.data.pronunciations import Pronunciations, pronounced, read_pronunciations
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.probe_head import HeadSettings
from rdsdk.evaluation.probing import ProbeOptimisation, SpecMasks
from rdsdk.models import checkpoint
from rdsdk.training.run_recipe import RunRecipe, parse_recipe, recipe_parser
from rdsdk.training.student_teacher import StudentTeacher
from rdsdk.training.teachers import Precision, Teacher, load_teacher

Task = Literal["phones", "characters"]
Prepare = Callable[[CutSet], tuple[CutSet, int]]
"""Utterances -> those that can be used, their texts in the task's symbols; how many were not."""


@dataclass(frozen=True)
class ProbeRecipe(RunRecipe):
    """One probe: a small head is trained on a frozen model.

    Args:
        model: an rdsdk checkpoint folder, or a teacher: a folder or hub name of a transformers
            checkpoint (HuBERT, WavLM, wav2vec 2.0), or torchaudio:HUBERT_BASE.
        task: what the head writes: phones (phone error rate) or characters (word error rate).
        test: corpora that the best head is judged on at the end; none judges it on dev.
        pronunciations: dictionaries that spell words in phones, the first to name a word deciding;
            none takes PocketSphinx's (39 phones, without stress). Utterances whose alignment says
            their phones keep these.
        chunk_frames: a streaming student hears chunks of so many frames instead of its own, 0 the
            whole recording at once.
        head: what learns.
        masks: what of the mixture it does not see in training.
        optimisation: how it learns.
    """

    model: str = field(kw_only=True)
    task: Task = "phones"
    test: list[str] = field(default_factory=list)
    pronunciations: list[str] = field(default_factory=list)
    chunk_frames: int | None = None
    head: HeadSettings = field(default_factory=HeadSettings)
    masks: SpecMasks = field(default_factory=SpecMasks)
    optimisation: ProbeOptimisation = field(default_factory=ProbeOptimisation)

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ConfigError(f"task is one of {', '.join(get_args(Task))}, got {self.task!r}")
        if self.pronunciations and self.task != "phones":
            raise ConfigError(f"pronunciations go with task phones; the task is {self.task}")
        if self.hardware.strategy == "fsdp" or self.hardware.compile:
            raise ConfigError(
                "a probe trains a small head, which is neither sharded nor compiled; leave "
                "hardware.strategy fsdp and hardware.compile out"
            )

    def symbols(self) -> tuple[Vocabulary, Prepare]:
        """The symbols of the head, and what makes texts of them.

        Raises:
            ConfigError, DataError: a pronouncing dictionary cannot be used.
        """
        if self.task == "characters":
            return Vocabulary.characters(), lambda cuts: (cuts, 0)
        found: Pronunciations = read_pronunciations(self.pronunciations)
        return found.vocabulary, lambda cuts: pronounced(cuts, found)

    def upstream(self) -> Teacher:
        """The frozen model, on the CPU; in bfloat16 if the run is.

        Raises:
            CheckpointError: there is no such model, or it is damaged or cannot be had.
            ConfigError: ``chunk_frames`` was given for a model without chunks.
        """
        precision: Precision = "bfloat16" if "bf16" in self.hardware.precision else "float32"
        folder = Path(self.model).expanduser()
        if not checkpoint.is_saved(folder):
            if self.chunk_frames is not None:
                raise ConfigError(
                    f"{self.model} is no rdsdk checkpoint, so it has no chunks; leave chunk_frames "
                    "out"
                )
            return load_teacher(self.model, precision=precision)
        loaded = checkpoint.load(folder)
        if self.chunk_frames:
            loaded = checkpoint.in_context(loaded, self.chunk_frames, None)
        return StudentTeacher(
            loaded.student, folder.name, whole=self.chunk_frames == 0, precision=precision
        )


class Command(NamedTuple):
    """What ``rdsdk probe`` was asked for."""

    recipe: ProbeRecipe
    resume: bool


def read_command(arguments: Sequence[str]) -> Command:
    """Command-line arguments -> the recipe and whether to resume; see ``parse_recipe``.

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    parser = recipe_parser(
        ProbeRecipe,
        "rdsdk probe",
        "Train a small head on a frozen model (SUPERB's way; recipes superb-pr, superb-asr), then "
        "count its errors: result.json, layer_weights.png and hypotheses.jsonl in the output "
        "folder. With --resume a finished probe is only judged again.",
    )
    parser.add_argument(
        "--table",
        type=str,
        nargs="+",
        default=None,
        metavar="FOLDER",
        help="train nothing: a table of finished probes, by their output folders",
    )
    recipe, values = parse_recipe(parser, ProbeRecipe, arguments)
    if values["table"] is not None:
        raise ConfigError("--table takes the folders of finished probes, and nothing beside it")
    return Command(recipe, bool(values["resume"]))
