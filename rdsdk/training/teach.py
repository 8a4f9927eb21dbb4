"""``rdsdk teach``: aligned phones in, a teacher of them out, for students to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import tdnn
from rdsdk.models.tdnn import Tdnn, TdnnConfig
from rdsdk.training.corpus_trigram import corpus_trigram
from rdsdk.training.frame_keeping import Keeping
from rdsdk.training.run import run
from rdsdk.training.run_recipe import RunRecipe, parse_recipe, recipe_parser
from rdsdk.training.tdnn_training import TdnnOptimisation, TdnnRegularisation, TdnnTraining


@dataclass(frozen=True)
class TeachRecipe(RunRecipe):
    """One teacher.

    Args:
        lexicon: the phones, as the texts of the corpus write them.
        tdnn: its architecture.
        optimisation, regularisation: how it learns.
        piece_seconds: utterances of train are cut into pieces of about so long at most
            (``rdsdk.data.pieces``); None leaves them whole.
        kept_passes: the energies of so many augmented passes over train are made first and kept in
            the run's folder, some 16 KB a second and pass in bfloat16; epochs take them in turn. 0
            hears the sound each time.
        language: what is spoken, an ISO 639 code.
    """

    lexicon: list[str] = field(default_factory=list)
    tdnn: TdnnConfig = field(default_factory=TdnnConfig)
    optimisation: TdnnOptimisation = field(default_factory=TdnnOptimisation)
    regularisation: TdnnRegularisation = field(default_factory=TdnnRegularisation)
    piece_seconds: float | None = 5.0
    kept_passes: int = 0
    language: str = "und"

    def __post_init__(self) -> None:
        if not self.lexicon:
            raise ConfigError("a teacher of phones needs a lexicon that lists them, and has none")
        if self.kept_passes < 0:
            raise ConfigError(f"kept_passes is {self.kept_passes}, expected 0 or more")
        if self.hardware.strategy == "fsdp" or self.hardware.compile:
            raise ConfigError(
                "rdsdk teach runs with hardware.strategy auto or ddp, not compiled: a Tdnn is "
                "small; leave fsdp and compile out"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """``rdsdk teach --config NAME_OR_FILE [--resume] [--key value ...]``.

    Returns 0 when the run is whole, 3 when it was interrupted and can be resumed.
    """
    recipe, resume = read_recipe(list(arguments or []))
    return teach(recipe, resume)


def read_recipe(arguments: Sequence[str]) -> tuple[TeachRecipe, bool]:
    """Command-line arguments -> the recipe, and whether to resume; see ``parse_recipe``.

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    parser = recipe_parser(
        TeachRecipe,
        "rdsdk teach",
        "Train a teacher of phones (a Tdnn) from aligned speech, for students to imitate.",
    )
    recipe, values = parse_recipe(parser, TeachRecipe, arguments)
    return recipe, bool(values["resume"])


def teach(recipe: TeachRecipe, resume: bool = False) -> int:
    """Run a recipe. See ``main`` for what it returns, ``run.run`` for what it raises.

    Raises:
        DataError: none of the corpus has an alignment.
    """
    vocabulary = Vocabulary.words(recipe.lexicon)

    def make_module() -> TdnnTraining:
        return TdnnTraining(
            Tdnn(recipe.tdnn, len(vocabulary)),
            vocabulary,
            corpus_trigram(recipe.train, vocabulary),
            recipe.optimisation,
            recipe.regularisation,
            recipe.seed,
        )

    return run(
        recipe,
        make_module,
        figure="dev/loss",
        steps=recipe.optimisation.steps,
        clip_norm=recipe.optimisation.clip_norm,
        vocabulary=vocabulary,
        provenance={"language": recipe.language},
        resume=resume,
        save=tdnn.save,
        keeping=Keeping(recipe.kept_passes) if recipe.kept_passes else None,
        piece_seconds=recipe.piece_seconds,
    )
