"""``rdsdk finetune``: a recipe in, a run folder out, with the best checkpoint in ``best/``."""

from __future__ import annotations

from collections.abc import Sequence

from rdsdk.training.corpus_trigram import corpus_trigram
from rdsdk.training.finetuning import Finetuning
from rdsdk.training.frame_keeping import Keeping
from rdsdk.training.imitation import first_student
from rdsdk.training.recipe import FinetuneRecipe, read_recipe
from rdsdk.training.run import run
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
    teachers = recipe.imitation.load(vocabulary)
    keeping = Keeping.of(recipe.kept_passes, teachers, recipe.imitation)

    def make_module() -> Finetuning:
        student = recipe.student.build(vocabulary)
        if recipe.imitation.copy_extractor:
            copy_front_end(first_student(teachers), student)
        chosen = recipe.regularisation
        # Without a single alignment these losses would be 0 for ever.
        aligned = chosen.sequence_steps or chosen.aligned_start_steps
        trigram = corpus_trigram(recipe.train, vocabulary) if aligned else None
        return Finetuning(
            student,
            vocabulary,
            recipe.optimisation,
            recipe.regularisation,
            recipe.seed,
            # What is kept they are asked once, beforehand.
            () if keeping else teachers,
            recipe.imitation,
            trigram if chosen.sequence_steps else None,
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
        keeping=keeping,
        piece_seconds=recipe.piece_seconds,
        unlabelled=bool(teachers),
    )
