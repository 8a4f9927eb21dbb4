"""The recipes that ship, their dry runs, and sweeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from distil_setup import write_recipe, write_teacher
from transformers import HubertConfig

from rdsdk.errors import ConfigError
from rdsdk.models import checkpoint
from rdsdk.models.config import preset
from rdsdk.models.cost import parameter_count
from rdsdk.models.student import Student
from rdsdk.training import plan
from rdsdk.training.distill import main
from rdsdk.training.distill_recipe import DistilledStudent, read_command
from rdsdk.training.losses import frame_losses
from rdsdk.training.sweeps import SWEEPS, variants
from rdsdk.training.teacher_shape import teacher_shape

HUBERT, WAVLM = "facebook/hubert-base-ls960", "microsoft/wavlm-base"
# name: teacher, millions of parameters with heads, epochs, learning rate, mask ratio
RECIPES = {
    "armhubert-960h": (HUBERT, 26_448_448, 200, 5e-3, 0.8),
    "armhubert-s-960h": (HUBERT, 22_394_080, 100, 5e-3, 0.8),
    "armhubert-s-100h": (HUBERT, 22_394_080, 200, 5e-3, 0.4),
    "armwavlm-s-960h": (WAVLM, 22_394_080, 100, 5e-3, 0.8),
    "armwavlm-s-100h": (WAVLM, 22_394_080, 200, 5e-3, 0.4),
    "maskhubert-960h": (HUBERT, 26_635_840, 200, 5e-4, 0.8),
    "starhubert": (HUBERT, 22_309_024, 200, 1e-3, 0.0),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_recipe_is_what_was_published(name: str) -> None:
    teacher, parameters, epochs, learning_rate, ratio = RECIPES[name]
    recipe = read_command(["--config", name]).recipe
    assert recipe.teacher == teacher
    config = recipe.student.config()
    assert parameter_count(config, 768 if recipe.objective.heads else None) == parameters
    chosen = recipe.optimisation
    assert (chosen.epochs, chosen.learning_rate, chosen.warmup_share) == (
        epochs,
        learning_rate,
        0.05,
    )
    assert (chosen.betas, chosen.epsilon, chosen.weight_decay) == ((0.9, 0.98), 1e-6, 1e-6)
    assert recipe.masking.ratio == (ratio,)
    assert recipe.objective.layer_grad_scale == ("shares" if name.startswith("arm") else "off")
    # The published steps take 144 (960 h) or 36 (100 h) utterances of 12.3 or 12.7 s.
    seconds = recipe.batch_seconds * recipe.accumulate_batches * 2
    assert seconds == pytest.approx(
        144 * 12.3 if recipe.masking.ratio != (0.4,) else 36 * 12.7, rel=0.03
    )


def test_changes_to_a_preset_make_the_student() -> None:
    small = DistilledStudent("armhubert-s", reuse="3by4", ffn=600, reinvest=True).config()
    assert small.owners == (0, 3, 6, 9)
    assert small.ffn == 864
    saved = DistilledStudent("armhubert-s", ffn=600, reused_map="softmax_again").config()
    assert (saved.ffn, saved.reused_map) == (600, "softmax_again")
    with pytest.raises(ConfigError, match=r"student\.reinvest needs"):
        DistilledStudent("armhubert-s", reinvest=True).config()


def test_a_key_can_be_set_in_either_way() -> None:
    one = read_command(["--config", "armhubert-s-100h", "optimisation.steps=100", "seed=3"])
    other = read_command(
        ["--config=armhubert-s-100h", "--optimisation.steps", "100", "--seed", "3"]
    )
    assert one == other
    assert one.recipe.optimisation.steps == 100
    spaced = read_command(["--config", "armhubert-s-100h", "--wandb", "a=b"])
    assert spaced.recipe.wandb == "a=b"


def test_a_misspelt_key_is_named(teacher: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, teacher, masking={"ration": [0.4]})
    with pytest.raises(ConfigError, match="ration"):
        main(["--config", str(recipe)])
    with pytest.raises(ConfigError, match="armhubert-s-100h"):
        main(["--config", "no-such-recipe"])


def test_a_dry_run_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "armhubert-960h", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for figure in ("94.37", "26.45", "22.02", "28.0%", "30.1%", "960.9", "MACs"):
        assert figure in printed
    steps = plan.plan(read_command(["--config", "armhubert-960h"]).recipe).steps
    # 281,241 utterances, 144 a step, 200 epochs.
    assert steps == pytest.approx(281_241 / 144 * 200, rel=0.02)


def test_a_dry_run_counts_what_is_in_the_manifests(teacher: Path, tmp_path: Path) -> None:
    file = write_recipe(tmp_path, teacher, optimisation={"epochs": 5}, accumulate_batches=2)
    made = plan.plan(read_command(["--config", str(file)]).recipe)
    assert made.hours == pytest.approx(13.309 / 3600)
    assert (
        made.steps == 5 * 2
    )  # three clips of 3 to 5 s in batches of 6 s: three batches, two steps
    assert made.teacher.width == 48
    assert made.parameters_with_heads == made.parameters + 4 * (32 * 48 + 48)
    absent = write_recipe(tmp_path, teacher, train=["absent.jsonl"], optimisation={"epochs": 5})
    assert plan.plan(read_command(["--config", str(absent)]).recipe).steps is None


def test_memory_that_is_kept_for_the_backward_pass_is_counted() -> None:
    config = preset("tiny")
    samples = 32_080
    student = Student(config, projection_width=48)
    waveforms, counts = torch.zeros(2, samples), torch.full((2,), samples)
    own = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.append(tensor)
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    mask = torch.zeros(2, 100, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, _ = student(waveforms, sample_counts=counts, frame_mask=mask)
        targets = [torch.zeros(2, 100, 48) for _ in output.hidden]
        frame_losses(student.project(output.hidden), targets, None, mask, torch.full((2,), 100))
    found = plan.saved_bytes(config, 48, 2, samples)
    assert found == pytest.approx(sum(kept.values()), rel=0.02)
    assert plan.saved_bytes(config, 48, 4, samples) == pytest.approx(2 * found, rel=0.05)
    assert 0.4 * found < plan.saved_bytes(config, 48, 2, samples, torch.bfloat16) < 0.9 * found


def test_the_shape_of_a_teacher_is_read_from_a_folder(tmp_path: Path) -> None:
    HubertConfig(hidden_size=96, num_hidden_layers=3, num_attention_heads=4).save_pretrained(
        tmp_path
    )
    shape = teacher_shape(str(tmp_path))
    assert (shape.layers, shape.width, shape.heads) == (3, 96, 4)
    large = teacher_shape("facebook/hubert-large-ll60k")
    assert large.parameters == pytest.approx(315e6, rel=0.01)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="model of type 'bert'"):
        teacher_shape(str(tmp_path))
    with pytest.raises(ConfigError, match="microsoft/wavlm-base"):
        teacher_shape("somebody/some-model")


def test_sweeps_vary_what_their_names_say() -> None:
    owners, widths = {}, {}
    for name in SWEEPS["reuse"]:
        (variant,) = [v for v in variants("reuse", Path("runs")) if v.name == name]
        recipe = read_command(["--config", "armhubert-s-100h", *variant.arguments]).recipe
        owners[name] = len(recipe.student.config().owners)
    assert owners == {"2by6": 6, "3by4": 4}
    for variant in variants("reinvestment", Path("runs")):
        recipe = read_command(["--config", "armhubert-s-100h", *variant.arguments]).recipe
        widths[variant.name] = recipe.student.config().ffn
    assert widths == {"reinvested": 816, "saved": 600}
    ratios = [v.arguments for v in variants("mask-ratio", Path("runs"))]
    assert ratios == [(f"--masking.ratio=[{ratio}]",) for ratio in (0.4, 0.6, 0.8)]
    folders = [str(variant.output) for variant in variants("seed=0,1", Path("runs"))]
    assert folders == ["runs/sweep-seed/0", "runs/sweep-seed/1"]
    for name in SWEEPS:
        for variant in variants(name, Path("runs")):
            read_command(["--config", "armhubert-s-100h", *variant.arguments])


def test_a_sweep_runs_its_variants_and_prints_a_table(
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file = write_recipe(tmp_path, teacher)
    few = ["--config", str(file), "optimisation.steps=2", "validate_every_steps=2"]
    sweep = ["--sweep", "objective.frames=both,masked"]
    assert main([*few, *sweep]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "run" / "sweep-objective.frames"
    losses = {}
    for name in ("both", "masked"):
        kept = checkpoint.read_description(folder / name / "best")["provenance"]
        assert isinstance(kept, dict)
        assert kept["recipe"]["objective"]["frames"] == name
        losses[name] = json.loads((folder / name / "dev.jsonl").read_text())["dev/loss"]
        assert name in printed
        assert f"{losses[name]:g}"[:5] in printed
    assert losses["both"] != losses["masked"]
    # What is finished is not run again.
    before = (folder / "both" / "dev.jsonl").stat().st_mtime_ns
    assert main([*few, *sweep, "--resume"]) == 0
    assert (folder / "both" / "dev.jsonl").stat().st_mtime_ns == before


def test_a_sweep_stops_at_the_variant_that_fails(teacher: Path, tmp_path: Path) -> None:
    file = write_recipe(tmp_path, teacher)
    assert main(["--config", str(file), "--sweep", "dev=[absent.jsonl],[gone.jsonl]"]) == 2
    with pytest.raises(ConfigError, match="optimisation"):
        main(["--config", str(file), "--sweep", "optimisation.steps=2,0"])
