"""A distillation recipe: typed, read from YAML; a misspelt key is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from rdsdk.errors import ConfigError
from rdsdk.models.config import (
    Context,
    EncoderConfig,
    ReusedMap,
    preset,
    reinvest_ffn,
    reuse_pattern,
)
from rdsdk.training.distillation_settings import Chunks, Descent, Objective
from rdsdk.training.masking import Masking
from rdsdk.training.run_recipe import RunRecipe, parse_recipe, recipe_parser


@dataclass(frozen=True)
class DistilledStudent:
    """A preset, and what of it is changed.

    Args:
        preset: a preset's name.
        reuse: another reuse pattern ("2by6", "3by4", "none"); None keeps the preset's.
        ffn: another feed-forward width.
        reinvest: spend what reuse saves on ``ffn``, which is then the width without reuse.
        reused_map: "as_is" (the paper) or "softmax_again" (the released code).
        heads: another number of attention heads.
        context: makes the preset stream with this context.
        dropout: rate in training; None keeps the preset's.
        extractor: "random" starts it afresh, as published; "copied" starts it as the teacher's
            and lets it learn on; "frozen" keeps it the teacher's, which spares its half of the
            backward pass. The last two need an rdsdk checkpoint with the same extractor.
    """

    preset: str = "armhubert"
    reuse: str | None = None
    ffn: int | None = None
    reinvest: bool = False
    reused_map: ReusedMap = "as_is"
    heads: int | None = None
    context: Context | None = None
    dropout: float | None = None
    extractor: Literal["random", "copied", "frozen"] = "random"

    def config(self) -> EncoderConfig:
        """The architecture.

        Raises:
            ConfigError: the changes do not fit together; the message says how.
        """
        made = preset(self.preset)
        owners = made.map_owner if self.reuse is None else reuse_pattern(self.reuse, made.layers)
        ffn = made.ffn if self.ffn is None else self.ffn
        if self.reinvest:
            if self.ffn is None:
                raise ConfigError(
                    "student.reinvest needs student.ffn, the feed-forward width without reuse (600 "
                    "for armhubert-s, 640 for armhubert), to widen it"
                )
            ffn = reinvest_ffn(made.width, ffn, owners)
        made = replace(
            made,
            map_owner=owners,
            ffn=ffn,
            reused_map=self.reused_map,
            heads=made.heads if self.heads is None else self.heads,
            dropout=made.dropout if self.dropout is None else self.dropout,
        )
        return made if self.context is None else made.streaming(self.context)


@dataclass(frozen=True)
class DistillRecipe(RunRecipe):
    """One distillation.

    Args:
        teacher: a folder or hub name of a transformers checkpoint (HuBERT, WavLM, wav2vec 2.0), a
            torchaudio bundle, or an rdsdk checkpoint, a folder or a bundled name.
        whole: a teacher that streams, which only one of rdsdk can, hears each recording as a whole,
            instead of in its own context.
        student: what learns.
        objective: what it is asked to match.
        masking: what both do not see.
        optimisation: how it learns.
        chunks: contexts a streaming student is taught with.
        figure_every_steps: how often a picture of the similarity is logged, at a validation.
        train_hours: hours of audio in ``train``, for a plan made where the data is not.
    """

    teacher: str = "facebook/hubert-base-ls960"
    whole: bool = False
    student: DistilledStudent = field(default_factory=DistilledStudent)
    objective: Objective = field(default_factory=Objective)
    masking: Masking = field(default_factory=Masking)
    optimisation: Descent = field(default_factory=Descent)
    chunks: Chunks = field(default_factory=Chunks)
    figure_every_steps: int = 5000
    train_hours: float | None = None


class Command(NamedTuple):
    """What ``rdsdk distill`` was asked for."""

    recipe: DistillRecipe
    resume: bool
    dry_run: bool
    sweep: str | None


def read_command(arguments: Sequence[str]) -> Command:
    """Command-line arguments -> the recipe and what to do with it; see ``parse_recipe``.

    Raises:
        ConfigError: an unknown or misspelt key, or a value of the wrong type; names it.
    """
    parser = recipe_parser(
        DistillRecipe, "rdsdk distill", "Distil a HuBERT-class teacher into a small student."
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what the run would cost, and stop"
    )
    parser.add_argument(
        "--sweep",
        type=str,
        default=None,
        help="run several variants: a name (reuse, mask-ratio, ...) or key=value,value,...",
    )
    recipe, values = parse_recipe(parser, DistillRecipe, arguments)
    return Command(recipe, bool(values["resume"]), bool(values["dry_run"]), values["sweep"])
