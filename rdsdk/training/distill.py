"""``rdsdk distill``: a teacher and a recipe in, a student's run folder out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rdsdk.errors import ConfigError
from rdsdk.models.student import Student
from rdsdk.training import plan, sweeps
from rdsdk.training.distill_recipe import DistillRecipe, read_command
from rdsdk.training.distillation import Distillation
from rdsdk.training.run import run
from rdsdk.training.student_teacher import copy_extractor
from rdsdk.training.teachers import Precision, Teacher, load_teacher
from rdsdk.training.throughput import Throughput


def main(arguments: Sequence[str] | None = None) -> int:
    """``rdsdk distill --config NAME_OR_FILE [--resume | --dry-run] [--sweep S] [key=value ...]``.

    Returns 0 when everything is whole, 3 when it was interrupted and can be resumed.
    """
    given = list(arguments or [])
    recipe, resume, dry_run, sweep = read_command(given)
    if dry_run and resume:
        raise ConfigError("--dry-run runs nothing that --resume could go on with; leave one out")
    if sweep is None:
        if dry_run:
            plan.show(plan.plan(recipe), Console(soft_wrap=True))
            return 0
        return distill(recipe, resume)
    chosen = sweeps.variants(sweep, Path(recipe.output))
    rest = _without(given, "--sweep")
    # All are read before the first is run, so that no mistake waits for its turn.
    recipes = [read_command([*rest, *variant.arguments]).recipe for variant in chosen]
    for one in recipes:
        one.student.config()
    console = Console(soft_wrap=True)
    if dry_run:
        for variant, one in zip(chosen, recipes, strict=True):
            console.rule(variant.name)
            plan.show(plan.plan(one), console)
        return 0
    code = sweeps.run_sweep(_without(rest, "--resume", values=0), chosen, resume)
    console.print(sweeps.table(sweep, chosen))
    return code


def distill(recipe: DistillRecipe, resume: bool = False, teacher: Teacher | None = None) -> int:
    """Run a recipe, with ``teacher`` in place of the one it names if given.

    See ``main`` for what it returns, ``run.run`` for what it raises.
    """
    config = recipe.student.config()
    # By itself a teacher takes bfloat16 on a GPU only; here it follows the run, which on processors
    # with bfloat16 instructions is faster as well.
    run_in = recipe.hardware.precision
    precision: Precision = "bfloat16" if "bf16" in run_in else "auto"
    if run_in.startswith("32"):
        precision = "float32"
    loaded = teacher or load_teacher(recipe.teacher, precision=precision, whole=recipe.whole)
    heads = loaded.width if recipe.objective.heads else None

    def make_module() -> Distillation:
        student = Student(config, projection_width=heads)
        if recipe.student.extractor != "random":
            copy_extractor(loaded, student, frozen=recipe.student.extractor == "frozen")
        return Distillation(
            loaded,
            student,
            recipe.objective,
            recipe.masking,
            recipe.optimisation,
            recipe.chunks,
            recipe.seed,
            recipe.figure_every_steps,
        )

    return run(
        recipe,
        make_module,
        figure="dev/loss",
        steps=recipe.optimisation.steps,
        epochs=recipe.optimisation.epochs if recipe.optimisation.steps is None else None,
        clip_norm=recipe.optimisation.clip_norm,
        provenance={"teacher": loaded.name},
        resume=resume,
        callbacks=[Throughput()],
    )


def _without(arguments: Sequence[str], option: str, values: int = 1) -> list[str]:
    """The arguments without an option and its values."""
    kept: list[str] = []
    skipped = 0
    for argument in arguments:
        if skipped:
            skipped -= 1
        elif argument == option:
            skipped = values
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
