"""A fine-tuning recipe: typed, read from YAML; a misspelt key is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.growth import doubled, narrowed, widened, with_energies
from rdsdk.models.student import Student
from rdsdk.training.finetuning import Optimisation, Regularisation
from rdsdk.training.imitation import Imitation
from rdsdk.training.run_recipe import RunRecipe, parse_recipe, recipe_parser


@dataclass(frozen=True)
class StudentChoice:
    """Which student is fine-tuned: a preset from scratch, or a checkpoint folder's weights.

    Args:
        preset: a preset's name; exactly one of preset and checkpoint.
        checkpoint: a checkpoint folder (distilled, imported or fine-tuned before) or a bundled
            model's name. Its CTC head is kept if it has the same vocabulary, its projection heads
            are left behind.
        context: makes a preset stream with this context, and a checkpoint that streams go on with
            it; None keeps its own.
        width: of the encoder; a checkpoint's may be doubled, which first changes nothing
            (``rdsdk.models.growth``). None keeps the architecture's.
        ffn: units of each feed-forward; a checkpoint's are added to, which first changes nothing,
            or those that say least are left out.
        mel_bands: of log-mel energies beside the extractor (``rdsdk.models.energies``); a
            checkpoint without any gets them, which first changes nothing.
        dropout: rate in training; None keeps the architecture's.
    """

    preset: str | None = None
    checkpoint: str | None = None
    context: Context | None = None
    width: int | None = None
    ffn: int | None = None
    mel_bands: int | None = None
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
            if self.width is not None:
                config = replace(config, width=self.width)
            if self.ffn is not None:
                config = replace(config, ffn=self.ffn)
            if self.mel_bands is not None:
                config = replace(config, mel_bands=self.mel_bands)
        else:
            assert self.checkpoint is not None
            source = checkpoint.load(self.checkpoint)
            if self.context is not None:
                source = checkpoint.in_context(source, **asdict(self.context))
            if self.width not in (None, source.student.config.width):
                source = replace(source, student=self._doubled(source.student))
            if self.ffn is not None:
                resized = widened if self.ffn > source.student.config.ffn else narrowed
                source = replace(source, student=resized(source.student, self.ffn))
            if self.mel_bands is not None:
                heard = with_energies(source.student, self.mel_bands)
                source = replace(source, student=heard)
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

    def _doubled(self, student: Student) -> Student:
        width = student.config.width
        if self.width != 2 * width:
            raise ConfigError(
                f"student.width is {self.width}, expected the checkpoint's {width} or twice that"
            )
        return doubled(student)


@dataclass(frozen=True)
class FinetuneRecipe(RunRecipe):
    """One fine-tuning run.

    Args:
        student: what is fine-tuned.
        units: what CTC writes: characters, or the whole words of the lexicon, far easier to learn
            where there are only a few.
        lexicon: closes the vocabulary to these words.
        optimisation, regularisation: how it learns.
        imitation: teachers whose log_probs it learns from besides.
        kept_passes: the frozen extractor's frames of so many augmented passes over train are made
            first and kept in the run's folder, and what ``imitation.teachers`` say of them; epochs
            take them in turn. In bfloat16, a second and pass take some 26 KB at 256 channels, 24
            more with energies of 80 bands, 4 more with teachers of 40 symbols. 0 hears the sound
            and asks each time.
        piece_seconds: aligned utterances of train whose text is their symbols are cut into pieces
            of about so long at most (``rdsdk.data.pieces``); None leaves them whole.
        language: what is spoken, an ISO 639 code, for the card.
    """

    student: StudentChoice = field(default_factory=StudentChoice)
    units: Literal["characters", "words"] = "characters"
    lexicon: list[str] | None = None
    optimisation: Optimisation = field(default_factory=Optimisation)
    regularisation: Regularisation = field(default_factory=Regularisation)
    imitation: Imitation = field(default_factory=Imitation)
    kept_passes: int = 0
    piece_seconds: float | None = None
    language: str = "und"

    def __post_init__(self) -> None:
        if self.kept_passes < 0:
            raise ConfigError(f"kept_passes is {self.kept_passes}, expected 0 or more")
        sound = self.regularisation.mel_start_steps or self.regularisation.flat_start_steps
        if self.kept_passes and (sound or not self.optimisation.freeze_extractor):
            raise ConfigError(
                "kept_passes goes with optimisation.freeze_extractor and without "
                "regularisation.mel_start_steps and flat_start_steps, which need the sound"
            )

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


def read_recipe(arguments: Sequence[str]) -> tuple[FinetuneRecipe, bool]:
    """Command-line arguments -> the recipe, and whether to resume; see ``parse_recipe``.

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    parser = recipe_parser(
        FinetuneRecipe, "rdsdk finetune", "Fine-tune a student for CTC recognition."
    )
    recipe, values = parse_recipe(parser, FinetuneRecipe, arguments)
    return recipe, bool(values["resume"])
