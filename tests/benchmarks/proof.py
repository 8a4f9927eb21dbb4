"""Does distillation work, and which parts of it: one table of small students on real speech.

``python -m tests.benchmarks.proof --teacher FOLDER --train data/phones/train.jsonl --dev
data/phones/dev.jsonl --output runs/proof [--unlabelled FILE ...] [--seeds 0 1 2] [--steps 500]
[--parallel 2] [--config arm-mini] [--device cpu] [--masks]``. Each variant of the recipe is
distilled from the teacher by ``rdsdk distill`` on recordings without their transcripts, once a
seed; then a linear probe (``rdsdk.evaluation.frame_probe``) on its frozen hidden states names the
phone of each frame of speakers it never heard; in another column 40 % of each recording is masked,
as lost packets are, and to be named all the same. The table gives the mean over seeds, the spread
(largest less smallest), and how each seed differs from the same seed of the first variant: runs of
one seed saw the same batches and masks. The last rows go through ``rdsdk finetune`` on the aligned
recordings and count the same errors of the student's own head: with and without distillation, then
after each way to mask. ``--masks`` compares the ways to mask and nothing else, without fine-tuning.
What is in the output folder already is not run again; ``proof.json`` and ``proof.png`` beside the
runs hold the figures and a plot of every student.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from rdsdk.models import checkpoint
from rdsdk.models.student import Student
from rdsdk.training.distill_recipe import read_command
from rdsdk.training.student_teacher import StudentTeacher, copy_extractor
from tests.benchmarks.proof_figure import draw_proof
from tests.benchmarks.proof_probes import Listening, head_errors, probed

ROOT = Path(__file__).parents[2]

FEW = "dev-few.jsonl"
"""Some recordings of dev, for the runs' own validation: the probe judges on all of them."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "masked + unmasked, 2by6, reinvested, map as it is": (),
    "masked frames only": ("objective.frames=masked",),
    "unmasked frames only": ("objective.frames=unmasked",),
    "no masks": ("masking.ratio=[0.0]",),
    "3by4": ("student.reuse=3by4",),
    "not reinvested": ("student.reinvest=false",),
    "reuse as released (second softmax)": ("student.reused_map=softmax_again",),
    "no reuse": ("student.reuse=none",),
}
MASKINGS = ("masked frames only", "unmasked frames only", "no masks")
"""Fine-tuned too: what masks teach might show only then."""


@dataclass(frozen=True)
class Run:
    """One student."""

    variant: str
    seed: int
    folder: Path


def execute(command: Sequence[str], log: Path) -> None:
    """Run a command on one thread with its output in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        subprocess.run(
            [sys.executable, "-m", "rdsdk.cli", *command],
            cwd=ROOT,
            check=True,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def distil(run: Run, options: argparse.Namespace) -> None:
    """Distil one student, unless it is there."""
    if not (run.folder / "last" / "model.json").is_file():
        resume = ["--resume"] if (run.folder / "resume.ckpt").is_file() else []
        execute([*distil_arguments(run, options), *resume], run.folder / "log.txt")


def distil_arguments(run: Run, options: argparse.Namespace) -> list[str]:
    return [
        *("distill", "--config", options.config, f"teacher={options.teacher}", "whole=true"),
        f"seed={run.seed}",
        f"train=[{','.join(str(each) for each in (options.train, *options.unlabelled))}]",
        *(f"dev=[{options.output / FEW}]", f"output={run.folder}"),
        *(f"optimisation.steps={options.steps}", f"validate_every_steps={options.steps}"),
        *(f"save_every_steps={options.steps}", *options.also),
        *VARIANTS[run.variant],
    ]


def write_few(manifest: Path, folder: Path) -> None:
    """Every fifth row of a manifest, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()][::5]
    for each in rows:
        each["audio"] = str(manifest.parent / each["audio"])
    (folder / FEW).write_text("".join(json.dumps(each) + "\n" for each in rows))


def config_of(run: Run, options: argparse.Namespace) -> Any:
    return read_command(distil_arguments(run, options)[1:]).recipe.student.config()


def finetune(run: Run, start: Path, steps: int, options: argparse.Namespace) -> None:
    """Frame classification on the aligned recordings, from a checkpoint."""
    if (run.folder / "last" / "model.json").is_file():
        return
    execute(
        [
            *("finetune", "--config", "phones", f"student.checkpoint={start}", f"seed={run.seed}"),
            *(
                "student.preset=null",
                "student.dropout=0.0",
                f"batch_seconds={options.batch_seconds}",
            ),
            *options.also,
            *(f"train=[{options.train}]", f"dev=[{options.output / FEW}]"),
            *(f"output={run.folder}", f"optimisation.steps={steps}"),
            "optimisation.warmup_steps=30",
            *("optimisation.average_decay=0.98", "regularisation.mel_start_steps=0"),
            *("regularisation.chunk_frames=[]", f"validate_every_steps={steps}"),
        ],
        run.folder / "log.txt",
    )


@dataclass(frozen=True)
class Row:
    """A line of the table: one figure of each seed."""

    label: str
    parameters: int
    frames: list[float]
    """Frames named wrongly, %."""
    spoken: list[float]
    """The same of the frames in which a phone is spoken."""
    gaps: list[float]
    """``frames`` in recordings with gaps."""
    beside: list[float] | None = None
    """``frames`` less that of the same seed in the row compared with."""

    def markdown(self) -> str:
        beside = "-"
        if self.beside is not None:
            beside = ", ".join(f"{each:+.1f}" for each in self.beside)
        cells = [f"{self.parameters / 1e6:.2f}", f"{len(self.frames)}"]
        for rates in (self.frames, self.spoken, self.gaps):
            spread = f" ({max(rates) - min(rates):.1f})" if len(rates) > 1 else ""
            cells.append(f"{sum(rates) / len(rates):.1f}{spread}")
        return f"| {self.label} | {' | '.join([*cells, beside])} |"


def row(
    label: str, results: Sequence[dict[str, Any]], parameters: int, base: Row | None = None
) -> Row:
    """What the runs of a variant, seed by seed, found; ``base`` is what they are compared with."""
    frames, spoken, gaps = (
        [100 * result[key] for result in results]
        for key in ("frame_error_rate", "symbol_frame_error_rate", "gaps")
    )
    beside = None
    if base is not None:
        beside = [mine - its for mine, its in zip(frames, base.frames, strict=True)]
    return Row(label, parameters, frames, spoken, gaps, beside)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="a checkpoint of 12 layers")
    parser.add_argument("--train", type=Path, required=True, help="an aligned manifest")
    parser.add_argument(
        "--unlabelled", type=Path, nargs="*", default=[], help="more manifests to distil on"
    )
    parser.add_argument("--dev", type=Path, required=True, help="an aligned manifest")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500, help="of distillation")
    parser.add_argument("--config", default="arm-mini", help="a recipe of rdsdk distill")
    parser.add_argument("--batch-seconds", type=float, default=12.0, help="of fine-tuning")
    parser.add_argument("--device", default="cpu", help="of the probes")
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="KEY=VALUE", help="for every run of rdsdk"
    )
    parser.add_argument("--finetune-steps", type=int, default=250)
    parser.add_argument("--masks", action="store_true", help="only the ways to mask")
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, a thread each")
    options = parser.parse_args()
    for name in ("teacher", "train", "dev", "output"):
        setattr(options, name, getattr(options, name).absolute())
    options.unlabelled = [each.absolute() for each in options.unlabelled]
    teacher = checkpoint.load(options.teacher)
    if teacher.vocabulary is None:
        print(f"{options.teacher} has no vocabulary of phones to probe for", file=sys.stderr)
        return 2
    write_few(options.dev, options.output)
    results = Results(options, teacher)
    results.distilled()
    if not options.masks:
        results.finetuned()
    return 0


class Results:
    """The table as it grows; each figure is kept beside its run."""

    def __init__(self, options: argparse.Namespace, teacher: checkpoint.Checkpoint) -> None:
        self.options = options
        self.teacher = teacher
        assert teacher.vocabulary is not None
        self.vocabulary = teacher.vocabulary
        self.rows: list[Row] = []
        base = next(iter(VARIANTS))
        self.variants = [base, *MASKINGS] if options.masks else list(VARIANTS)
        self.listening = Listening(options.train, options.dev, options.device)
        print(
            "| | M parameters | seeds | frames named wrongly, % (spread) "
            "| of those with a phone, % | in recordings with gaps, % "
            "| each seed beside the first variant |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)

    def say(self, line: Row) -> Row:
        """Print a line, and keep all lines so far as JSON and as a plot."""
        print(line.markdown(), flush=True)
        self.rows.append(line)
        kept = [asdict(each) for each in self.rows]
        (self.options.output / "proof.json").write_text(json.dumps(kept, indent=1))
        draw_proof(self.options.output / "proof.png", self.rows)
        return line

    def runs(self, variant: str, kind: str = "") -> list[Run]:
        names = list(VARIANTS)
        folder = self.options.output / (kind or f"{names.index(variant)}")
        return [Run(variant, seed, folder / f"seed{seed}") for seed in self.options.seeds]

    def all_of(self, jobs: Sequence[Any], what: str) -> None:
        """Run jobs side by side, with a bar."""
        with (
            Progress(console=Console(stderr=True)) as progress,
            ThreadPoolExecutor(self.options.parallel) as pool,
        ):
            task = progress.add_task(what, total=len(jobs))
            for future in [pool.submit(job) for job in jobs]:
                future.result()
                progress.advance(task)

    def probe_of(self, student: Student, folder: Path) -> dict[str, Any]:
        kept = folder / "probe.json"
        if not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(probed(student, self.vocabulary, self.listening)))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def fresh(self, run: Run) -> Student:
        """The student before any training: its own random encoder over the teacher's extractor."""
        torch.manual_seed(run.seed)
        student = Student(config_of(run, self.options))
        copy_extractor(StudentTeacher(self.teacher.student, "teacher"), student, frozen=False)
        return student.eval()

    def distilled(self) -> None:
        options = self.options
        top = self.probe_of(self.teacher.student, options.output / "teacher")
        self.say(row("the teacher", [top], self.teacher.student.parameter_count()))
        base = self.runs(next(iter(VARIANTS)))
        lost = [
            self.probe_of(self.fresh(r), options.output / "fresh" / r.folder.name) for r in base
        ]
        size = self.fresh(base[0]).parameter_count()
        self.say(row("a student before any training", lost, size))
        # Seed by seed, so that a run cut short has compared all variants.
        every = [run for runs in zip(*map(self.runs, self.variants), strict=True) for run in runs]
        self.all_of([lambda run=run: distil(run, options) for run in every], "distilling")
        first: Row | None = None
        for variant in self.variants:
            runs = self.runs(variant)
            students = [checkpoint.load(run.folder / "last").student for run in runs]
            found = [self.probe_of(s, r.folder) for s, r in zip(students, runs, strict=True)]
            line = self.say(row(variant, found, self.fresh(runs[0]).parameter_count(), first))
            first = first or line

    def finetuned(self) -> None:
        options, base = self.options, next(iter(VARIANTS))
        short, long = options.finetune_steps, options.finetune_steps + options.steps
        # Each is fine-tuned from a variant's students; None is the same student never distilled.
        plans: dict[str, tuple[str | None, str, int]] = {
            f"distilled, then {short} steps on phones": (base, "after", short),
            f"not distilled, {short} steps on phones": (None, "scratch", short),
            f"not distilled, {long} steps on phones": (None, "scratch-long", long),
        }
        for variant in MASKINGS:
            kind = f"after-{list(VARIANTS).index(variant)}"
            plans[f"{variant}, then {short} steps on phones"] = (variant, kind, short)
        jobs = []
        for source, kind, steps in plans.values():
            distilled = self.runs(source or base)
            for before, run in zip(distilled, self.runs(source or base, kind), strict=True):
                start = before.folder / "last"
                if source is None:
                    start = run.folder / "start"
                    checkpoint.save(start, checkpoint.Checkpoint(self.fresh(run)))
                jobs.append(
                    lambda run=run, start=start, steps=steps: finetune(run, start, steps, options)
                )
        self.all_of(jobs, "fine-tuning")
        first: Row | None = None
        for label, (source, kind, _) in plans.items():
            runs = self.runs(source or base, kind)
            found = [head_errors(run.folder / "last", self.listening) for run in runs]
            size = checkpoint.load(runs[0].folder / "last").student.parameter_count()
            line = self.say(row(label, found, size, first))
            first = first or line


if __name__ == "__main__":
    sys.exit(main())
