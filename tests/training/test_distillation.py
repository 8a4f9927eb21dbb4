"""Runs of ``rdsdk distill`` on real clips: they learn, resume, stop and are refused."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from distil_setup import write_recipe, write_teacher
from run_process import finish, start
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError, TrainingError
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.distill import distill, main
from rdsdk.training.distill_recipe import read_command
from rdsdk.training.distillation import Distillation
from rdsdk.training.recipe import StudentChoice
from rdsdk.training.student_teacher import StudentTeacher
from rdsdk.training.teachers import Teacher, TeacherOutput, load_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def recipe(teacher: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path, teacher)


def dev(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "dev.jsonl").read_text().splitlines()]


def distilled(*arguments: str) -> None:
    code, output = finish("distill", *arguments)
    assert code == 0, output


def test_a_student_comes_to_resemble_its_teacher(
    recipe: Path, teacher: Path, tmp_path: Path
) -> None:
    longer = ["optimisation.steps=60", "validate_every_steps=12", "figure_every_steps=30"]
    assert main(["--config", str(recipe), *longer]) == 0
    run = tmp_path / "run"
    rows = dev(run)
    assert [row["step"] for row in rows] == [12, 24, 36, 48, 60]
    assert rows[-1]["dev/loss"] < 0.85 * rows[0]["dev/loss"]
    assert rows[-1]["dev/similarity_layer04"] > rows[0]["dev/similarity_layer04"]
    best = checkpoint.load(run / "best")
    assert best.student.projection_width == 48
    assert best.provenance["teacher"] == teacher.name
    student = StudentChoice(checkpoint=str(run / "best")).build(Vocabulary.characters())
    assert student.projections is None
    assert student.symbols == 29
    events = EventAccumulator(str(run / "events"), size_guidance={"images": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/masked", "train/unmasked", "train/mask_ratio"} <= scalars
    assert {"speed/audio_hours_per_hour", "time/teacher", "time/student", "time/rest"} <= scalars
    assert events.Tags()["images"] == ["dev/similarity"]
    pictures = events.Images("dev/similarity")
    assert [picture.step for picture in pictures] == [12, 48]
    assert pictures[0].height == 4 * 12
    shares = [events.Scalars(f"time/{name}")[-1].value for name in ("teacher", "student", "rest")]
    assert 0.5 < sum(shares) <= 1.0
    assert min(shares) > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["objective.frames=masked"],
        ["objective.frames=unmasked", "objective.random_layers=1"],
        ["objective.temporal_relation=0.5", "masking.ratio=[0.2,0.8]", "masking.schedule=cosine"],
        ["objective.frames=none", "objective.temporal_relation=1", "masking.ratio=[0]"],
        ["chunks.chunk_frames=[4,8,null]", "hardware.precision=bf16-mixed"],
        ["optimisation={epochs: 2}", "accumulate_batches=2", "student.reuse=none"],
        ["objective.teacher_layers=[0,0,3,3]", "objective.layer_grad_scale=released"],
    ],
)
def test_every_option_trains_finite_weights(
    recipe: Path, tmp_path: Path, arguments: list[str]
) -> None:
    few = [] if "epochs" in arguments[0] else ["optimisation.steps=4"]
    assert main(["--config", str(recipe), *few, *arguments, "validate_every_steps=2"]) == 0
    weights = load_file(tmp_path / "run" / "last" / checkpoint.WEIGHTS)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    heads = any(name.startswith("projections") for name in weights)
    assert heads == ("objective.frames=none" not in arguments)
    assert dev(tmp_path / "run")[-1]["dev/loss"] > 0


def test_a_frozen_extractor_stays_the_teachers_and_a_copied_one_learns_on(
    recipe: Path, teacher: Path, tmp_path: Path
) -> None:
    wanted = checkpoint.load(teacher).student.extractor.state_dict()
    for choice in ("frozen", "copied", "random"):
        run = tmp_path / choice
        options = ["optimisation.steps=2", "validate_every_steps=2", f"output={run}"]
        assert main(["--config", str(recipe), *options, f"student.extractor={choice}"]) == 0
        got = checkpoint.load(run / "last").student.extractor.state_dict()
        apart = max(float((got[name] - wanted[name]).abs().max()) for name in wanted)
        if choice == "frozen":
            assert apart == 0.0
        else:
            # Two steps move a copy a little; a fresh one is somewhere else.
            assert (0.0 < apart < 0.02) == (choice == "copied")


def test_interrupted_and_resumed_equals_uninterrupted(recipe: Path, tmp_path: Path) -> None:
    # Dropout, random layers and contexts are on: all of them are drawn again alike.
    whole = ["--config", str(recipe), "optimisation.steps=40", "objective.random_layers=2"]
    whole += ["chunks.chunk_frames=[4,8,null]", "accumulate_batches=2"]
    distilled(*whole, "--output", str(tmp_path / "whole"))
    process = start("distill", *whole)
    resume_file = tmp_path / "run" / "resume.ckpt"
    deadline = time.monotonic() + 120
    while not resume_file.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    saved = torch.load(resume_file, weights_only=True)
    assert 2 <= saved["global_step"] < 40
    # The teacher's weights are not in it.
    assert all(name.startswith("student.") for name in saved["state_dict"])
    distilled(*whole, "--resume")
    same, other = tmp_path / "whole" / "last", tmp_path / "run" / "last"
    first, second = (load_file(folder / checkpoint.WEIGHTS) for folder in (same, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    curves = [{row["step"]: row for row in dev(tmp_path / name)} for name in ("whole", "run")]
    assert curves[0] == curves[1]
    # Negative control: another seed gives other weights.
    distilled(*whole, "--output", str(tmp_path / "seed"), "seed=1")
    third = load_file(tmp_path / "seed" / "last" / checkpoint.WEIGHTS)
    assert not all(torch.equal(first[name], third[name]) for name in first)


class NotANumber(StudentTeacher):
    """A teacher that breaks at the third batch."""

    def __init__(self, sound: Teacher) -> None:
        assert isinstance(sound, StudentTeacher)
        super().__init__(sound.student, "broken")
        self.asked = 0

    def forward(
        self,
        waveforms: torch.Tensor,
        sample_counts: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
    ) -> TeacherOutput:
        self.asked += 1
        said = super().forward(waveforms, sample_counts, frame_mask)
        if self.asked == 3:
            said.unmasked[2][0] = float("nan")
        return said


def test_a_loss_that_is_not_finite_stops_before_the_update(
    recipe: Path, teacher: Path, tmp_path: Path
) -> None:
    broken = NotANumber(load_teacher(str(teacher)))
    longer = read_command(["--config", str(recipe), "save_every_steps=2"]).recipe
    with pytest.raises(TrainingError, match=r"nan at step 2.*(kathleen|lj-|ls-669)"):
        distill(longer, teacher=broken)
    saved = torch.load(tmp_path / "run" / "resume.ckpt", weights_only=True)
    assert saved["global_step"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective.frame=both"], "frame"),
        (["optimisation.steps=many"], "steps"),
        (["optimisation.epochs=0"], "at least 1, got 0 and 8"),
        (["student.reuse=5by3"], "covers 15 layers"),
        (["student.reinvest=true"], "needs student.ffn"),
        (["objective.frames=none"], "nothing to learn"),
        (["objective.layer_weights=[1,1]"], "layer_weights needs 4"),
        (["objective.teacher_layers=[9,9,9,9]"], "teacher_layers"),
        (["masking.ratio=[0.1,0.2]"], "mask ratio"),
        (["student.preset=armhubert", "chunks.chunk_frames=[8]"], "full-context student"),
        (["wandb=project"], "package wandb is not installed"),
        (["--resume"], "nothing to resume"),
        (["--resume", "--dry-run"], "--dry-run runs nothing"),
        (["--sweep", "everything"], "unknown sweep 'everything'; use one of reuse"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(
    recipe: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["--config", str(recipe), *arguments])


def test_a_teacher_that_is_not_there_is_named(recipe: Path) -> None:
    with pytest.raises(CheckpointError, match="/nowhere"):
        main(["--config", str(recipe), "teacher=/nowhere"])


def test_heads_of_another_width_than_the_teacher_are_refused(teacher: Path, recipe: Path) -> None:
    read = read_command(["--config", str(recipe)]).recipe
    student = Student(preset("tiny"), projection_width=32)
    with pytest.raises(ConfigError, match="teacher's width 48"):
        Distillation(
            load_teacher(str(teacher)), student, read.objective, read.masking, read.optimisation
        )


def test_a_distilled_student_goes_on_to_fine_tuning_as_a_checkpoint(tmp_path: Path) -> None:
    student = Student(preset("tiny"), projection_width=48)
    folder = checkpoint.save(tmp_path, Checkpoint(student))
    built = StudentChoice(checkpoint=str(folder)).build(Vocabulary.characters())
    assert torch.equal(built.encoder.mask_embedding, student.encoder.mask_embedding)
