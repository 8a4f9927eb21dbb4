"""``rdsdk probe``: how much of a frozen model a small head can use, as SUPERB asks.

SUPERB (arXiv 2105.01051) freezes a model and trains a head on a learnt mixture of its layers:
recipes ``superb-pr`` (phone error rate) and ``superb-asr`` (word error rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lhotse import CutSet
from lightning.pytorch.utilities import rank_zero_only

from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.evaluation import probe_report
from rdsdk.evaluation.evaluate import evaluate
from rdsdk.evaluation.probe_head import HeadCheckpoint, load_head, save_head
from rdsdk.evaluation.probe_recipe import Prepare, ProbeRecipe, read_command
from rdsdk.evaluation.probe_report import ProbeResult
from rdsdk.evaluation.probing import Probing, figure_of, probe_transcriber
from rdsdk.evaluation.report import write_hypotheses
from rdsdk.training.resuming import RESUME_FILE
from rdsdk.training.run import run
from rdsdk.training.teachers import Teacher

BEST, LAST, RECIPE = "best", "last", "recipe.yaml"
HYPOTHESES = "hypotheses.jsonl"
FIGURE = "layer_weights.png"
TABLE = "--table"
SAME_PROBE = ("model", "task", "pronunciations", "chunk_frames", "head")
"""The fields of a recipe that a head belongs to."""


@dataclass(frozen=True)
class _Corpus:
    name: str
    cuts: CutSet
    left_out: int


def main(arguments: Sequence[str] | None = None) -> int:
    """``rdsdk probe --config NAME_OR_FILE model=M output=FOLDER [--resume] [key=value ...]``, or
    ``rdsdk probe --table FOLDER ...``.

    Returns 0 when the head is trained and judged, 3 when the run was interrupted and can be
    resumed.
    """
    given = list(arguments or [])
    if given and given[0] == TABLE:
        folders = given[1:]
        if not folders or any(folder.startswith("-") for folder in folders):
            raise ConfigError(f"{TABLE} takes the folders of finished probes, got {folders}")
        probe_report.show([ProbeResult.read(Path(folder)) for folder in folders])
        return 0
    recipe, resume = read_command(given)
    return probe(recipe, resume)


def probe(recipe: ProbeRecipe, resume: bool = False) -> int:
    """Run a recipe. See ``main`` for what it returns, ``run.run`` for what it raises."""
    output = Path(recipe.output)
    finished = _finished(output, recipe, resume)
    # Before anything is loaded or trained, so that a wrong path is told at once.
    vocabulary, prepare = recipe.symbols()
    corpora = _corpora(recipe.test or recipe.dev, prepare)
    upstream = recipe.upstream()
    if not finished:
        code = _train(recipe, upstream, vocabulary, prepare, resume)
        # Of several processes one judges.
        if code or getattr(rank_zero_only, "rank", 0):
            return code
    made = load_head(output / BEST)
    result = _judge(recipe, upstream, made, corpora)
    probe_report.show([result])
    print(f"written to {output}: {probe_report.RESULT}, {FIGURE}, {HYPOTHESES}")
    return 0


def _train(
    recipe: ProbeRecipe, upstream: Teacher, vocabulary: Vocabulary, prepare: Prepare, resume: bool
) -> int:
    def make_module() -> Probing:
        return Probing(
            upstream, vocabulary, recipe.head, recipe.optimisation, recipe.masks, recipe.seed
        )

    return run(
        recipe,
        make_module,
        figure=figure_of(vocabulary),
        steps=recipe.optimisation.steps,
        clip_norm=recipe.optimisation.clip_norm,
        vocabulary=vocabulary,
        provenance={"model": upstream.name},
        resume=resume,
        prepare=lambda cuts: prepare(cuts)[0],
        save=save_head,
    )


def _judge(
    recipe: ProbeRecipe, upstream: Teacher, made: HeadCheckpoint, corpora: Sequence[_Corpus]
) -> ProbeResult:
    """Count the errors of a head on corpora, and write them to the output folder."""
    output = Path(recipe.output)
    if (made.head.states, made.head.width) != (upstream.layers + 1, upstream.width):
        raise CheckpointError(
            f"the head in {output / BEST} belongs to a model of {made.head.states - 1} layers of "
            f"width {made.head.width}; {recipe.model} has {upstream.layers} of {upstream.width}: "
            "choose another output"
        )
    transcribe = probe_transcriber(
        upstream, made.head, made.vocabulary, _device(recipe.hardware.accelerator)
    )
    evaluations = [evaluate(transcribe, one.cuts, one.name) for one in corpora]
    dev = made.provenance.get("dev")
    result = ProbeResult(
        model=upstream.name,
        task=recipe.task,
        chunk_frames=recipe.chunk_frames,
        precision=recipe.hardware.precision,
        head=asdict(made.head.settings),
        symbols=len(made.vocabulary),
        step=dev.get("step") if isinstance(dev, dict) else None,
        layer_weights=tuple(round(w, 6) for w in made.head.layer_weights.tolist()),
        results=tuple(
            probe_report.counted(evaluation, recipe.task, one.left_out)
            for evaluation, one in zip(evaluations, corpora, strict=True)
        ),
    )
    result.write(output)
    write_hypotheses(output / HYPOTHESES, evaluations)
    probe_report.draw(output / FIGURE, result)
    return result


def _corpora(sources: Sequence[str], prepare: Prepare) -> list[_Corpus]:
    return [_Corpus(source, *prepare(read_cuts(source))) for source in sources]


def _finished(output: Path, recipe: ProbeRecipe, resume: bool) -> bool:
    """Whether the folder holds a whole probe, which is only to be judged.

    Raises:
        ConfigError: what it holds is not this probe, or would be overwritten.
    """
    ended = (output / BEST).is_dir() and not (output / RESUME_FILE).is_file()
    if ended and not resume:
        raise ConfigError(
            f"{output} holds a trained head; --resume judges it again (on other corpora, with "
            "test=[...]), or choose another output"
        )
    if resume and (output / RECIPE).is_file():
        before = _recipe_of(output)
        now = recipe.plain()
        other = [name for name in SAME_PROBE if before.get(name) != now[name]]
        if other:
            told = ", ".join(f"{name}={before.get(name)}" for name in other)
            raise ConfigError(
                f"{output} is another probe, with {told}; this one has "
                f"{', '.join(f'{name}={now[name]}' for name in other)}: choose another output"
            )
    if ended:
        dev = load_head(output / LAST).provenance.get("dev")
        step = dev.get("step", 0) if isinstance(dev, dict) else 0
        if step < recipe.optimisation.steps:
            raise ConfigError(
                f"{output} holds a head of {step} steps and no {RESUME_FILE} to go on from; "
                f"optimisation.steps={step} judges it as it is, or choose another output"
            )
    return ended


def _recipe_of(output: Path) -> dict[str, Any]:
    path = output / RECIPE
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is damaged; choose another output") from error
    return value if isinstance(value, dict) else {}


def _device(accelerator: str) -> torch.device:
    with_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if with_gpu else "cpu")
