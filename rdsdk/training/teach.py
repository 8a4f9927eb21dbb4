"""``rdsdk teach``: aligned phones in, a teacher of them out, for students to imitate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import tdnn
from rdsdk.models.tdnn import Tdnn, TdnnConfig
from rdsdk.training.corpus_trigram import corpus_trigram
from rdsdk.training.frame_keeping import Keeping
from rdsdk.training.imitation import Imitation
from rdsdk.training.run import run
from rdsdk.training.run_recipe import RunRecipe, parse_recipe, recipe_parser
from rdsdk.training.tdnn_training import TdnnOptimisation, TdnnRegularisation, TdnnTraining


@dataclass(frozen=True)
class TeachRecipe(RunRecipe):
    """One teacher.

    Args:
        lexicon: the phones, as the texts of the corpus write them.
        tdnn: its architecture.
        checkpoint: a teacher to go on from, a folder or a bundled name, of that architecture but
            for its dropout; None begins from nothing.
        optimisation, regularisation: how it learns.
        imitation: others whose log_probs it learns from besides, as students do: one that learns
            from several of its own size can become better than each (T. Furlanello et al. 2018,
            "Born-again neural networks", arXiv 1805.04770).
        piece_seconds: utterances of train are cut into pieces of about so long at most
            (``rdsdk.data.pieces``); None leaves them whole.
        kept_passes: the energies of so many augmented passes over train are made first and kept in
            the run's folder, and what ``imitation.teachers`` say of them; epochs take them in turn.
            In bfloat16, a second and pass take some 16 KB, 4 more with teachers of 40 symbols. 0
            hears the sound and asks each time.
        language: what is spoken, an ISO 639 code.
    """

    lexicon: list[str] = field(default_factory=list)
    tdnn: TdnnConfig = field(default_factory=TdnnConfig)
    checkpoint: str | None = None
    optimisation: TdnnOptimisation = field(default_factory=TdnnOptimisation)
    regularisation: TdnnRegularisation = field(default_factory=TdnnRegularisation)
    imitation: Imitation = field(default_factory=Imitation)
    piece_seconds: float | None = 5.0
    kept_passes: int = 0
    language: str = "und"

    def __post_init__(self) -> None:
        if not self.lexicon:
            raise ConfigError("a teacher of phones needs a lexicon that lists them, and has none")
        if self.kept_passes < 0:
            raise ConfigError(f"kept_passes is {self.kept_passes}, expected 0 or more")
        if self.imitation.copy_extractor:
            raise ConfigError(
                "imitation.copy_extractor is for students; a Tdnn has no extractor, leave it out"
            )
        if self.hardware.strategy == "fsdp" or self.hardware.compile:
            raise ConfigError(
                "rdsdk teach runs with hardware.strategy auto or ddp, not compiled: a Tdnn is "
                "small; leave fsdp and compile out"
            )

    def build(self, vocabulary: Vocabulary) -> Tdnn:
        """The teacher before this run.

        Raises:
            CheckpointError: ``checkpoint`` is no whole teacher.
            ConfigError: it is another architecture, or writes other symbols.
        """
        if self.checkpoint is None:
            return Tdnn(self.tdnn, len(vocabulary))
        before = tdnn.load(Path(self.checkpoint))
        theirs = replace(before.tdnn.config, dropout=self.tdnn.dropout)
        if theirs != self.tdnn:
            found, wanted = asdict(theirs), asdict(self.tdnn)
            other = {f"tdnn.{name}": found[name] for name in found if found[name] != wanted[name]}
            raise ConfigError(
                f"the recipe's tdnn is not that of checkpoint {self.checkpoint}, which has {other}"
            )
        if before.vocabulary != vocabulary:
            raise ConfigError(
                f"checkpoint {self.checkpoint} writes {before.vocabulary.symbols}, the lexicon "
                f"asks for {vocabulary.symbols}; give its lexicon"
            )
        made = Tdnn(self.tdnn, len(vocabulary))
        made.load_state_dict(before.tdnn.state_dict())
        return made


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
    teachers = recipe.imitation.load(vocabulary)
    keeping = Keeping.of(recipe.kept_passes, teachers, recipe.imitation)

    def make_module() -> TdnnTraining:
        return TdnnTraining(
            recipe.build(vocabulary),
            vocabulary,
            corpus_trigram(recipe.train, vocabulary),
            recipe.optimisation,
            recipe.regularisation,
            recipe.seed,
            # What is kept they are asked once, beforehand.
            () if keeping else teachers,
            recipe.imitation,
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
        keeping=keeping,
        piece_seconds=recipe.piece_seconds,
        unlabelled=bool(teachers),
    )
