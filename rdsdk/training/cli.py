"""``rdsdk finetune``: a recipe in, a run folder out, with the best checkpoint in ``best/``."""

from __future__ import annotations

from collections.abc import Sequence

from rdsdk.data.alignment import said_symbols
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError
from rdsdk.training.finetuning import Finetuning
from rdsdk.training.frame_keeping import fingerprint
from rdsdk.training.recipe import FinetuneRecipe, read_recipe
from rdsdk.training.run import run
from rdsdk.training.sequence_loss import PhoneTrigram
from rdsdk.training.student_teacher import copy_front_end


def main(arguments: Sequence[str] | None = None) -> int:
    """``rdsdk finetune --config NAME_OR_FILE [--resume] [--key value ...]``.

    Returns 0 when the run is whole, 3 when it was interrupted and can be resumed.
    """
    recipe, resume = read_recipe(list(arguments or []))
    return finetune(recipe, resume)


def finetune(recipe: FinetuneRecipe, resume: bool = False) -> int:
    """Run a recipe. See ``main`` for what it returns, ``run.run`` for what it raises."""
    vocabulary = recipe.vocabulary()
    teacher = recipe.imitation.load(vocabulary)

    def make_module() -> Finetuning:
        student = recipe.student.build(vocabulary)
        if teacher is not None and recipe.imitation.copy_extractor:
            copy_front_end(teacher, student)
        if recipe.kept_passes and teacher and fingerprint(teacher) != fingerprint(student):
            raise ConfigError(
                f"the frames kept are the student's, and imitation.teacher "
                f"{recipe.imitation.teacher} has another extractor; leave kept_passes out, or "
                "start from a student that has the teacher's (rdsdk distill, extractor: frozen)"
            )
        return Finetuning(
            student,
            vocabulary,
            recipe.optimisation,
            recipe.regularisation,
            recipe.seed,
            teacher,
            recipe.imitation,
            corpus_trigram(recipe, vocabulary) if recipe.regularisation.sequence_steps else None,
        )

    return run(
        recipe,
        make_module,
        figure="dev/score",
        steps=recipe.optimisation.steps,
        clip_norm=recipe.optimisation.clip_norm,
        vocabulary=vocabulary,
        provenance={"language": recipe.language},
        resume=resume,
        kept_passes=recipe.kept_passes,
        piece_seconds=recipe.piece_seconds,
    )


def corpus_trigram(recipe: FinetuneRecipe, vocabulary: Vocabulary) -> PhoneTrigram:
    """Which symbol follows which two in what is learnt from, silences counted as blanks.

    Raises:
        DataError: none of it has an alignment, or a manifest cannot be used.
    """
    said = [
        symbols
        for cut in read_cuts(recipe.train)
        if (symbols := said_symbols(cut, vocabulary)) is not None
    ]
    if not said:
        raise DataError(
            f"regularisation.sequence_steps needs alignments, and none is in "
            f"{', '.join(recipe.train)}; make such a corpus (rdsdk prepare phones)"
        )
    return PhoneTrigram.of(said, len(vocabulary))
