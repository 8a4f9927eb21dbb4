"""``rdsdk probe`` on real clips: it learns on what is frozen, says so in files, and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file
from transformers import HubertConfig, HubertModel

from rdsdk import cli
from rdsdk.data.batches import evaluation_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError
from rdsdk.evaluation.probe_head import WEIGHTS, HeadSettings, ProbeHead, load_head
from rdsdk.evaluation.probe_recipe import read_command
from rdsdk.evaluation.probing import ProbeOptimisation, Probing, SpecMasks
from rdsdk.models import checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.student_teacher import StudentTeacher

SPEECH = str(Path(__file__).parent.parent / "assets" / "speech" / "manifest.jsonl")
DIGITS = str(Path(__file__).parent.parent / "assets" / "digits" / "manifest.jsonl")
STEPS = 60


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "random"
    return checkpoint.save(folder, checkpoint.Checkpoint(Student(preset("tiny"))))


def arguments(config: str, model: Path | str, output: Path, *more: str) -> list[str]:
    here = ["hardware.accelerator=cpu", "hardware.workers=0", "hardware.precision=32-true"]
    data = [f"train=[{SPEECH}]", f"dev=[{SPEECH}]", "test=[]"]
    return ["--config", config, f"model={model}", f"output={output}", *data, *here, *more]


def probe(*given: str) -> int:
    return cli.main(["probe", *given])


def small(steps: int, every: int) -> list[str]:
    return [f"optimisation.steps={steps}", f"validate_every_steps={every}"]


SMALL_LSTM = ["head.units=12", "head.projection=16"]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def validations(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def learnt(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a phone probe that learnt the three clips it is judged on."""
    folder = tmp_path_factory.mktemp("probes") / "phones"
    assert probe(*arguments("superb-pr", student, folder, *small(STEPS, STEPS // 2))) == 0
    return folder


def test_a_head_learns_the_phones_of_what_it_was_trained_on(learnt: Path, student: Path) -> None:
    rows = validations(learnt)
    assert [row["step"] for row in rows] == [STEPS // 2, STEPS]
    assert rows[-1]["dev/per"] < 0.5
    assert rows[-1]["dev/loss"] < rows[0]["dev/loss"]
    found = result(learnt)
    (row,) = found["results"]
    assert row["per"] == pytest.approx(min(r["dev/per"] for r in rows), abs=0.03)
    wrong = row["substitutions"] + row["deletions"] + row["insertions"]
    assert row["per"] == pytest.approx(wrong / row["reference_phones"])
    low, high = row["per_interval_95"]
    assert low <= row["per"] <= high
    assert (row["clips"], row["left_out"], row["reference_phones"]) == (3, 0, 133)
    assert (found["model"], found["task"], found["symbols"]) == ("random", "phones", 40)
    # Negative control: a head that learnt nothing names no phone rightly.
    nothing = learnt.parent / "nothing"
    assert probe(*arguments("superb-pr", student, nothing, *small(1, 1))) == 0
    assert result(nothing)["results"][0]["per"] > 0.9


def test_layer_weights_were_learnt_and_are_drawn_and_told(
    learnt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = result(learnt)["layer_weights"]
    assert len(weights) == preset("tiny").layers + 1
    assert sum(weights) == pytest.approx(1.0, abs=1e-4)
    assert max(weights) - min(weights) > 0.02
    assert torch.allclose(load_head(learnt / "best").head.layer_weights, torch.tensor(weights))
    image = imread(learnt / "layer_weights.png")
    assert image.shape[0] > 300
    assert len(np.unique(image)) > 30
    said = [json.loads(line) for line in (learnt / "hypotheses.jsonl").read_text().splitlines()]
    assert {row["id"] for row in said} == {cut.id for cut in read_cuts(SPEECH)}
    assert said[0]["reference"].startswith("D UH R IH NG W IH CH R AH B EH K AH")
    assert probe("--table", str(learnt), str(learnt)) == 0
    table = capsys.readouterr().out
    assert table.count("133 phones") == 2
    assert f"PER {100 * result(learnt)['results'][0]['per']:.2f}" in table
    assert f"{weights[0]:.3f}" in table


def test_the_frozen_model_is_unchanged_bit_for_bit(student: Path) -> None:
    vocabulary = Vocabulary.characters()
    upstream = StudentTeacher(checkpoint.load(student).student, "random")
    before = {name: tensor.clone() for name, tensor in upstream.state_dict().items()}
    module = Probing(upstream, vocabulary, HeadSettings(), ProbeOptimisation(), SpecMasks())
    (batch,) = evaluation_batches(read_cuts(SPEECH), vocabulary)

    def unchanged() -> bool:
        now = upstream.state_dict()
        return all(torch.equal(tensor, now[name]) for name, tensor in before.items())

    def step(loss: torch.Tensor, parameters: Any) -> None:
        optimiser = torch.optim.Adam(parameters, 1e-2)
        loss.backward()
        optimiser.step()

    module.train()
    assert not upstream.training
    assert not upstream.student.training
    # Everything that has a gradient moves, and what the module saves is the head alone.
    step(module._loss(module.log_probs(batch), batch), module.parameters())
    assert unchanged()
    assert not any(name.startswith(("upstream", "_")) for name in module.state_dict())
    assert all(parameter.grad is None for parameter in upstream.parameters())
    # Negative control: were it not frozen, it would have moved.
    loose = upstream.student.requires_grad_(True)
    output, _ = loose(batch.waveforms, sample_counts=batch.sample_counts)
    hidden = [output.hidden[0], *output.hidden]
    step(module._loss(module.head(hidden, batch.frame_counts), batch), loose.parameters())
    assert not unchanged()


def test_characters_give_word_and_character_errors(student: Path, tmp_path: Path) -> None:
    output = tmp_path / "asr"
    given = arguments("superb-asr", student, output, *small(16, 8), *SMALL_LSTM)
    assert probe(*given, "optimisation.learning_rate=3e-3", f"test=[{DIGITS},{SPEECH}]") == 0
    rows = validations(output)
    assert rows[-1]["dev/loss"] < rows[0]["dev/loss"]
    assert {"dev/wer", "dev/cer"} <= rows[0].keys()
    found = result(output)
    assert [row["data"] for row in found["results"]] == [DIGITS, SPEECH]
    assert [row["reference_words"] for row in found["results"]] == [28, 38]
    assert all(row["cer"] > 0 for row in found["results"])
    assert found["head"]["kind"] == "lstm"


def test_a_teacher_of_transformers_is_probed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    conv = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = HubertConfig(num_hidden_layers=2, **shape, **conv)
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    output = tmp_path / "probe"
    given = arguments("superb-pr", tmp_path / "hubert", output, *small(2, 2))
    assert probe(*given, "head.layer=-1", "hardware.precision=bf16-mixed") == 0
    found = result(output)
    assert (found["model"], found["layer_weights"]) == ("hubert", [0.0, 0.0, 1.0])
    with pytest.raises(ConfigError, match="no rdsdk checkpoint, so it has no chunks"):
        read_command([*given, "chunk_frames=8"]).recipe.upstream()


def test_a_bundled_student_is_probed_by_its_name_in_chunks_too() -> None:
    contexts = []
    for options in ([], ["chunk_frames=8"]):
        given = arguments("superb-pr", "digits", Path("nowhere"), *options)
        upstream = read_command(given).recipe.upstream()
        assert isinstance(upstream, StudentTeacher)
        assert upstream.name == "digits"
        contexts.append(upstream.student.config.context)
    own, given_chunks = contexts
    assert own == checkpoint.load("digits").student.config.context
    assert given_chunks is not None
    assert given_chunks.chunk_frames == 8 != own.chunk_frames


@torch.no_grad()
def test_a_student_hears_the_chunks_it_is_given(student: Path) -> None:
    waveform = 0.1 * torch.randn(1, 32_080)
    counts = torch.tensor([32_080])
    heard = {}
    for choice in ("null", "0", "16", "8"):
        given = arguments("superb-pr", student, Path("nowhere"), f"chunk_frames={choice}")
        upstream = read_command(given).recipe.upstream()
        heard[choice] = upstream.hidden_states(waveform, counts)[-1]
    assert torch.equal(heard["null"], heard["8"])
    for other in ("0", "16"):
        assert (heard[other] - heard["8"]).abs().max() > 1e-3


@pytest.fixture
def one_thread() -> Iterator[None]:
    """How a sum is split among threads changes its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_interrupted_and_resumed_equals_uninterrupted(student: Path, tmp_path: Path) -> None:
    every = ["save_every_steps=1", *SMALL_LSTM]
    steps = small(14, 14)
    one, two = tmp_path / "one", tmp_path / "two"
    assert probe(*arguments("superb-asr", student, one, *steps, *every)) == 0
    given = arguments("superb-asr", student, two, *steps, *every)
    command = [sys.executable, "-m", "rdsdk.cli", "probe", *given]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not (two / "resume.ckpt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 3
    assert not (two / "result.json").exists()
    saved = torch.load(two / "resume.ckpt", weights_only=True)
    assert saved["global_step"] < 14
    assert all(name.startswith("head.") for name in saved["state_dict"])
    assert probe(*given, "--resume") == 0
    whole, resumed = (load_file(folder / "last" / WEIGHTS) for folder in (one, two))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    # Negative control: without dropout the same steps lead elsewhere, so it was drawn alike.
    three = tmp_path / "three"
    given = arguments("superb-asr", student, three, *steps, *every, "head.dropout=0")
    assert probe(*given) == 0
    other = load_file(three / "last" / WEIGHTS)
    assert not torch.equal(other["linear.weight"], whole["linear.weight"])


def test_a_finished_probe_is_judged_again_and_not_overwritten(
    learnt: Path, student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_file(learnt / "best" / WEIGHTS)
    given = arguments("superb-pr", student, learnt, *small(STEPS, STEPS // 2))
    assert probe(*given) == 2
    assert "holds a trained head" in capsys.readouterr().err
    assert probe(*given, "--resume", f"optimisation.steps={STEPS + 1}") == 2
    assert f"holds a head of {STEPS} steps" in capsys.readouterr().err
    for change, told in (("task=characters", "task=phones"), ("head.projection=8", "head={")):
        assert probe(*given, change, "--resume") == 2
        assert told in capsys.readouterr().err
    first = result(learnt)
    assert probe(*given, "--resume", f"test=[{SPEECH},{DIGITS}]") == 0
    assert [row["data"] for row in result(learnt)["results"]] == [SPEECH, DIGITS]
    assert result(learnt)["results"][0] == first["results"][0]
    after = load_file(learnt / "best" / WEIGHTS)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert probe(*given, "--resume") == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model=runs/none/last", "there is no teacher at runs/none/last"),
        ("test=[runs/none.jsonl]", "no data source at runs/none.jsonl"),
        ("pronunciations=[runs/none.txt]", "no pronouncing lexicon runs/none.txt"),
        ("task=letters", "task"),
        ("head.kind=gru", "head.kind"),
        ("head.layer=4", "layers 0 to 3"),
        ("hardware.strategy=fsdp", "neither sharded nor compiled"),
        ("learning_rate=1", "learning_rate"),
        ("--resume", "nothing to resume"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, told: str
) -> None:
    given = arguments("superb-pr", student, tmp_path / "probe", *small(1, 1))
    assert probe(*given, change) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("folders", [[], ["runs/none"], ["--config", "superb-pr"]])
def test_a_table_of_nothing_is_refused(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe("--table", *folders) == 2
    assert "finished probe" in capsys.readouterr().err


def test_help_names_what_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        probe("--help")
    assert left.value.code == 0
    told = capsys.readouterr().out
    for name in ("--model", "--task", "--head.kind", "--chunk_frames", "--resume", "--table"):
        assert name in told
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "probe" in capsys.readouterr().out


def test_the_recipes_are_superbs() -> None:
    common = ["model=m", "output=o"]
    phones = read_command(["--config", "superb-pr", *common]).recipe
    words = read_command(["--config", "superb-asr", *common]).recipe
    assert (phones.task, words.task) == ("phones", "characters")
    assert (phones.head.kind, words.head.kind) == ("linear", "lstm")
    assert phones.head.layer is words.head.layer is None
    # The published head of phone recognition on a width of 768, and that of speech recognition.
    counts = [
        sum(p.numel() for p in ProbeHead(recipe.head, 13, 768, symbols).parameters())
        for recipe, symbols in ((phones, 70), (words, 29))
    ]
    assert counts[0] == 13 + 768 * 256 + 256 + 256 * 70 + 70
    lstms = 2 * 4 * 1024 * (1024 + 1024 + 2) + 2 * 4 * 1024 * (2048 + 1024 + 2)
    assert counts[1] == 13 + 768 * 1024 + 1024 + lstms + 2048 * 29 + 29
