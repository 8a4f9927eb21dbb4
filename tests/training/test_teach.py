"""Runs of ``rdsdk teach``, and a student that imitates what it made beside another."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from run_process import finish, start
from safetensors.torch import load_file

from rdsdk import cli
from rdsdk.data.batch import Batch
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError, DataError
from rdsdk.evaluation.transcribers import load_word_transcriber
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.config import preset
from rdsdk.models.ctc import mean_log_probs
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn, TdnnCheckpoint, TdnnConfig
from rdsdk.training.cli import main as finetune
from rdsdk.training.imitation import (
    Imitation,
    first_student,
    hear_alike,
    imitation_loss,
    teacher_log_probs,
)
from rdsdk.training.teach import main

TINY = {
    "width": 32,
    "bottleneck": 16,
    "fast_layers": 1,
    "reaches": [1, 1],
    "heads": 2,
    "dropout": 0.0,
}
LETTERS = ["A", "B", "C"]


def spelt(manifest: Path, folder: Path) -> str:
    """The melodies with their letters as words, which is how phones are written."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in rows:
        row["audio"], row["text"] = str(manifest.parent / row["audio"]), " ".join(row["text"])
    path = folder / manifest.name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def lesson(corpus: tuple[Path, Path], tmp_path: Path) -> Path:
    train, dev = (spelt(manifest, tmp_path) for manifest in corpus)
    file = tmp_path / "lesson.yaml"
    content = {
        **{"train": [train], "dev": [dev], "output": str(tmp_path / "run"), "lexicon": LETTERS},
        **{"tdnn": {**TINY, "mel_bands": 20}, "piece_seconds": None, "batch_seconds": 8},
        **{"validate_every_steps": 4, "save_every_steps": 2, "licence": "CC0"},
        "optimisation": {"steps": 8, "warmup_steps": 2, "held_steps": 2, "average_decay": 0.5},
        "regularisation": {"start_steps": 4, "band_mask_width": 4},
        "augmentation": {"gain_probability": 0.5, "speed_probability": 0.5},
        "hardware": {"accelerator": "cpu", "devices": 1, "workers": 0},
        "training_data": ["melodies"],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def test_a_teacher_learns_its_phones_and_keeps_its_best(
    lesson: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = ["optimisation.steps=160", "optimisation.learning_rate=4e-3"]
    longer += ["optimisation.average_decay=0.9", "optimisation.held_steps=40"]
    assert main(["--config", str(lesson), *longer, "validate_every_steps=40"]) == 0
    run = tmp_path / "run"
    dev = [json.loads(line) for line in (run / "dev.jsonl").read_text().splitlines()]
    assert [row["step"] for row in dev] == [40, 80, 120, 160]
    assert dev[-1]["dev/loss"] < dev[0]["dev/loss"]
    assert dev[-1]["dev/wer"] < 0.3
    best = tdnn.load(run / "best")
    kept = best.provenance["dev"]
    assert isinstance(kept, dict)
    assert kept["dev/loss"] == min(row["dev/loss"] for row in dev)
    assert best.provenance["training_data"] == ["melodies"]
    assert best.vocabulary == Vocabulary.words(LETTERS)
    assert not (run / "resume.ckpt").exists()
    # It is a model like others to whoever measures it.
    manifest = yaml.safe_load(lesson.read_text())["dev"][0]
    capsys.readouterr()
    assert cli.main(["evaluate", str(run / "best"), manifest, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["wer"] < 0.3
    with pytest.raises(ConfigError, match="hears whole recordings"):
        load_word_transcriber(str(run / "best"), chunk_frames=16)


def test_a_run_with_kept_energies_is_the_run_without(lesson: Path, tmp_path: Path) -> None:
    runs = {}
    for name, options in {
        "without": [],
        "kept": ["kept_passes=4"],
        "other sound": ["kept_passes=4", "augmentation.gain_probability=0.9", "seed=1"],
        "one pass": ["kept_passes=1"],
    }.items():
        output = tmp_path / name.replace(" ", "-")
        assert main(["--config", str(lesson), *options, f"output={output}"]) == 0
        runs[name] = load_file(output / "last" / checkpoint.WEIGHTS)

    assert furthest(runs["without"], runs["kept"]) < 1e-5
    assert furthest(runs["without"], runs["other sound"]) > 1e-3
    assert furthest(runs["without"], runs["one pass"]) > 1e-4


@pytest.fixture
def teachers(tmp_path: Path) -> list[str]:
    """A student and a Tdnn that write the lesson's symbols, as folders."""
    vocabulary = Vocabulary.words(LETTERS)
    folders = [str(tmp_path / "student"), str(tmp_path / "tdnn")]
    checkpoint.save(folders[0], checkpoint.Checkpoint(made_student(), vocabulary, {}))
    tdnn.save(folders[1], TdnnCheckpoint(made_tdnn(), vocabulary, {}))
    return folders


def test_a_teacher_imitates_others(lesson: Path, teachers: list[str], tmp_path: Path) -> None:
    longer = ["optimisation.steps=120", "optimisation.learning_rate=4e-3"]
    longer += ["optimisation.average_decay=0.9", "validate_every_steps=120"]
    for name, options in {
        "alone": [],
        "imitating": [f"imitation.teachers=[{','.join(teachers)}]", "imitation.weight=20"],
    }.items():
        run = f"output={tmp_path / name}"
        assert main(["--config", str(lesson), *longer, *options, run]) == 0
    torch.manual_seed(0)
    heard = 0.1 * torch.randn(1, 16_000)
    counts = torch.tensor([heard.shape[1]])
    models = [made_student(), made_tdnn()]
    with torch.inference_mode():
        said = mean_log_probs(
            [
                models[0](heard, context="full")[0].log_probs,
                models[1](heard, sample_counts=counts).log_probs,
            ]
        )

        def apart(name: str) -> float:
            learnt = tdnn.load(tmp_path / name / "last").tdnn
            log_probs = learnt(heard, sample_counts=counts).log_probs
            return float(imitation_loss(log_probs, said, torch.tensor([log_probs.shape[1]])))

        assert apart("imitating") < 0.3 * apart("alone")


def test_what_others_say_is_kept_and_learnt_from_without_texts(
    lesson: Path, teachers: list[str], tmp_path: Path
) -> None:
    recipe = yaml.safe_load(lesson.read_text())
    rows = [json.loads(line) for line in Path(recipe["train"][0]).read_text().splitlines()]
    untold = tmp_path / "untold.jsonl"
    for row in rows:
        row["id"] += "-untold"
        for known in ("text", "alignment"):
            row.pop(known, None)
    untold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["--config", str(lesson), f"train=[{recipe['train'][0]},{untold}]"]
    imitating = [f"imitation.teachers=[{','.join(teachers)}]", "imitation.whole=true"]
    with pytest.raises(DataError, match="has no transcript"):
        main([*common, f"output={tmp_path / 'refused'}"])
    runs = {}
    for name, options in {
        "asked": imitating,
        "kept": [*imitating, "kept_passes=4"],
        "one": [f"imitation.teachers=[{teachers[1]}]", "kept_passes=4"],
    }.items():
        output = tmp_path / name
        assert main([*common, *options, f"output={output}"]) == 0
        runs[name] = load_file(output / "last" / checkpoint.WEIGHTS)

    assert furthest(runs["asked"], runs["kept"]) < 1e-5
    assert furthest(runs["asked"], runs["one"]) > 1e-4


def test_a_teacher_goes_on_from_another(lesson: Path, teachers: list[str], tmp_path: Path) -> None:
    config, run = ["--config", str(lesson), f"output={tmp_path / 'further'}"], tmp_path / "further"
    still = ["optimisation.steps=1", "optimisation.warmup_steps=0", "validate_every_steps=1"]
    still += ["optimisation.learning_rate=1e-9", "tdnn.dropout=0.2"]
    assert main([*config, *still, f"checkpoint={teachers[1]}"]) == 0
    before, after = made_tdnn().state_dict(), tdnn.load(run / "last")
    for name, weight in after.tdnn.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)
    assert after.tdnn.config.dropout == 0.2
    with pytest.raises(ConfigError, match=r"'tdnn.width': 32.*'tdnn.reaches': \(1, 1\)"):
        main([*config, "tdnn.width=64", "tdnn.reaches=[1]", f"checkpoint={teachers[1]}"])
    with pytest.raises(ConfigError, match="give its lexicon"):
        main([*config, "lexicon=[A, C, B]", f"checkpoint={teachers[1]}"])
    with pytest.raises(CheckpointError, match="is no such teacher"):
        main([*config, f"checkpoint={teachers[0]}"])
    with pytest.raises(ConfigError, match="is for students"):
        main([*config, f"imitation.teachers=[{teachers[0]}]", "imitation.copy_extractor=true"])


DROPOUT = ("tdnn.dropout=0.1",)


def test_interrupted_and_resumed_equals_uninterrupted(lesson: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finish("teach", "--config", str(lesson), f"output={whole}", *DROPOUT)[0] == 0
    assert interrupted(lesson, parts) == 3
    resumed = ("--config", str(lesson), f"output={parts}", *DROPOUT, "--resume")
    code, said = finish("teach", *resumed)
    assert code == 0, said
    one, other = (load_file(each / "last" / checkpoint.WEIGHTS) for each in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def interrupted(lesson: Path, output: Path) -> int:
    """The exit code of a run that is asked to end as by Ctrl-C, when its resume file is there."""
    arguments = ("--config", str(lesson), f"output={output}", "save_every_steps=1", *DROPOUT)
    process = start("teach", *arguments)
    deadline = time.monotonic() + 120
    while not (output / "resume.ckpt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("lexicon=[]", "needs a lexicon"),
        ("hardware.strategy=fsdp", "auto or ddp"),
        ("hardware.compile=true", "not compiled"),
        ("kept_passes=-1", "kept_passes is -1"),
        ("imitation.copy_extractor=true", "need imitation.teachers"),
        ("tdnn.width=33", "multiple of twice"),
        ("tdnn.depth=3", "depth"),
        ("optimisation.steps=0", "steps >= 1"),
        ("regularisation.frame_mask_probability=1.5", "a share from 0 to below 1"),
        ("regularisation.frame_mask_span=0", "a frame or more"),
        ("regularisation.band_masks=-1", "band_masks is -1"),
    ],
)
def test_what_cannot_be_is_refused(lesson: Path, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        main(["--config", str(lesson), option])


def made_tdnn(seed: int = 0) -> Tdnn:
    torch.manual_seed(seed)
    return Tdnn(TdnnConfig(32, 16, 1, (1, 1), 2, 20), symbols=4).eval()


def made_student(seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return Student(preset("tiny"), symbols=4).eval()


def test_teachers_together_say_their_mean(sound: Batch) -> None:
    student, other = made_student(), made_tdnn()
    heard, _ = student(sound.waveforms, sample_counts=sound.sample_counts)
    seen = other(sound.waveforms, sample_counts=sound.sample_counts)
    assert heard.log_probs is not None
    product = (heard.log_probs.exp() * seen.log_probs.exp()).sqrt()
    expected = product / product.sum(-1, keepdim=True)
    said = teacher_log_probs([student, other], sound)
    torch.testing.assert_close(said.exp(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher_log_probs([other], sound), seen.log_probs)
    assert (said - seen.log_probs).abs().max() > 0.01


def test_whose_front_end_is_taken() -> None:
    student, other = made_student(), made_tdnn()
    assert first_student([other, student]) is student
    assert hear_alike(student, made_student())
    assert not hear_alike(student, made_student(seed=1))
    assert not hear_alike(other, student)
    with pytest.raises(ConfigError, match="a Tdnn has none"):
        first_student([other])


def test_a_student_learns_from_both_kinds(
    lesson: Path, teachers: list[str], tmp_path: Path
) -> None:
    both, vocabulary = teachers, Vocabulary.words(LETTERS)
    loaded = Imitation(tuple(both)).load(vocabulary)
    assert [type(each) for each in loaded] == [Student, Tdnn]
    assert not any(weight.requires_grad for each in loaded for weight in each.parameters())
    plain = yaml.safe_load(lesson.read_text())
    for name in ("tdnn", "regularisation", "optimisation"):
        del plain[name]
    recipe = tmp_path / "student.yaml"
    recipe.write_text(yaml.safe_dump({**plain, "units": "words", "student": {"preset": "tiny"}}))
    options = [f"imitation.teachers=[{','.join(both)}]", "imitation.copy_extractor=true"]
    options += ["optimisation.freeze_extractor=true", "optimisation.steps=3"]
    options += ["optimisation.warmup_steps=1", "regularisation.sequence_steps=3"]
    run = tmp_path / "learnt"
    assert finetune(["--config", str(recipe), *options, f"output={run}"]) == 0
    ours = checkpoint.load(run / "last").student.extractor.state_dict()
    theirs = made_student().extractor.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ConfigError, match="the same symbols"):
        Imitation((both[1],)).load(Vocabulary.words(["A", "B"]))
