"""A recurrent language model learns a small grammar, and goes on where it was interrupted."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rdsdk import cli
from rdsdk.errors import CheckpointError, ConfigError, DataError, TrainingError
from rdsdk.models import rnnlm
from rdsdk.training import rnnlm_training
from rdsdk.training.rnnlm_run import PRECISIONS, Run, Settings, _cost
from rdsdk.training.rnnlm_text import read_text
from rdsdk.training.rnnlm_training import Figures, train

SMALL = Settings(
    epochs=2,
    batch=4,
    span=8,
    learning_rate=1e-2,
    held_out=0.05,
    warmup_steps=10,
    hidden=24,
    projection=16,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of six words: five choices of two, and one word once in a while."""
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.choice(['THE', 'A'])} {rng.choice(['CAT', 'DOG'])} {rng.choice(['SAT', 'RAN'])} "
        f"ON {rng.choice(['THE', 'A'])} {rng.choice(['MAT', 'ROAD'])}"
        for _ in range(600)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(["THE  CAT", "", *lines, "RARE"]))
    return path


@pytest.mark.parametrize("embedding", [12, None])
def test_it_learns_a_grammar(text: Path, tmp_path: Path, embedding: int | None) -> None:
    seen: list[Figures] = []
    report = train(
        [text],
        tmp_path / "lm",
        replace(SMALL, embedding=embedding),
        licence="CC0",
        training_data=["a grammar"],
        watch=seen.append,
        measure_every=100,
    )
    assert report is not None
    # The best is 2 ** (5 / 7) = 1.64; before anything is learnt it is about the number of words.
    assert seen[0].perplexity > 4
    assert seen[0].perplexity > 2 * seen[-1].perplexity
    assert report.perplexity is not None
    assert 1.6 < report.perplexity < 2
    assert any(each.held_out_perplexity is not None for each in seen)
    assert (report.known_words, report.held_out_words) == (11, 30 * 7 - 5)
    assert report.unknown_share == pytest.approx(1 / report.held_out_words, abs=1e-5)
    model, provenance = rnnlm.load(tmp_path / "lm")
    assert model.config.embedding == embedding
    assert model.config.words[:2] == ("</s>", "<unk>")
    grammar = {"THE", "A", "CAT", "DOG", "SAT", "RAN", "ON", "MAT", "ROAD"}
    assert set(model.config.words[2:]) == grammar  # RARE is held out
    assert (provenance["licence"], provenance["training_data"]) == ("CC0", ["a grammar"])
    assert sorted(each.name for each in (tmp_path / "lm").iterdir()) == [
        "model.safetensors",
        "rnnlm.json",
    ]
    # After THE come CAT, DOG, MAT and ROAD, never a verb.
    index = model.config.words.index
    said, _ = model(torch.tensor([[0], [index("THE")]]), model.fresh_state(1))
    log_probs = model.log_probs(said)[1, 0]
    assert log_probs[index("CAT")] > log_probs[index("RAN")] + 2


def test_rarer_words_are_unknown_and_sentences_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("B A B\nA\n")
    (tmp_path / "b").write_text("B C </s>\nB D\n")
    text = read_text([tmp_path / "a", tmp_path / "b"], most_words=4, held_out=0.25)
    assert text.words == ("</s>", "<unk>", "B", "A")
    assert text.train.tolist() == [2, 3, 2, 0, 3, 0, 2, 1, 0, 0]
    assert text.streams(2).T.tolist() == [[2, 3, 2, 0, 3], [0, 2, 1, 0, 0]]
    assert [each.tolist() for each in text.held_out] == [[2, 1, 0]]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    model, _ = rnnlm.load(folder)
    return model.state_dict()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_interrupted_run_comes_to_the_same_weights(
    text: Path, tmp_path: Path, precision: str
) -> None:
    settings = replace(SMALL, precision=precision)
    assert train([text], tmp_path / "whole", settings) is not None

    def interrupt(figures: Figures) -> None:
        if figures.step in (37, 70):
            os.kill(os.getpid(), signal.SIGINT)

    again = tmp_path / "again"
    for resume in (False, True):
        assert train([text], again, settings, resume=resume, watch=interrupt, watch_every=1) is None
        assert sorted(each.name for each in again.iterdir()) == ["resume.ckpt"]
    report = train([text], again, settings, resume=True)
    assert report is not None
    whole = weights_of(tmp_path / "whole")
    assert all(torch.equal(each, whole[name]) for name, each in weights_of(again).items())
    # Negative control: another seed comes to others.
    train([text], tmp_path / "other", replace(settings, seed=1))
    other = weights_of(tmp_path / "other")
    assert not torch.equal(other["lstm.weight_hr_l0"], whole["lstm.weight_hr_l0"])


def test_products_of_bfloat16_numbers_learn_the_same(text: Path) -> None:
    words = read_text([text], SMALL.words, SMALL.held_out)
    exact, rounded = (Run(words, replace(SMALL, precision=each, dropout=0)) for each in PRECISIONS)
    gradients = []
    for run in (exact, rounded):
        run.step()
        kept = [each.grad for each in run.model.parameters() if each.grad is not None]
        gradients.append(torch.cat([each.flatten() for each in kept]))
        assert all(each.dtype == torch.float32 for each in kept)
    apart = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    assert 1e-4 < apart < 0.02  # 1e-4: they are rounded indeed
    assert rounded.losses[0] == pytest.approx(exact.losses[0], rel=5e-3)
    for run in (exact, rounded):
        while run.share() < 1:
            run.step()
    perplexities = [run.held_out_perplexity() for run in (exact, rounded)]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=0.03)
    with pytest.raises(ConfigError, match="'bf16', expected '32-true' or 'bf16-mixed'"):
        replace(SMALL, precision="bf16")


def test_a_run_ends_by_its_minutes(text: Path, tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=1000, minutes=0.02)
    report = train([text], tmp_path / "lm", settings)
    assert report is not None
    assert 0 < report.steps < 1000 * 100
    assert 1 < report.seconds < 20


def test_the_learning_rate_rises_and_falls(text: Path) -> None:
    run = Run(read_text([text], SMALL.words, SMALL.held_out), replace(SMALL, epochs=1))
    rates = []
    while run.share() < 1:
        rates.append(run._rate())
        run.steps += 1
    assert np.argmax(rates) in (9, 10)
    assert rates[0] == pytest.approx(1 / 11, rel=0.01)
    assert rates[-1] == pytest.approx(0.02, abs=0.01)


def test_sentences_are_measured_alone(text: Path) -> None:
    """What a batch of different lengths costs is what its sentences cost one by one."""
    run = Run(read_text([text], SMALL.words, SMALL.held_out), SMALL)
    run.model.eval()
    batch = [np.array(each) for each in ([0], [2, 3, 0], [4, 2, 5, 1, 0])]
    alone = sum(_cost(run.model, [each]) for each in batch)
    assert _cost(run.model, batch) == pytest.approx(alone, rel=1e-5)
    outputs, _ = run.model(torch.tensor([[0], [2], [3]]), run.model.fresh_state(1))
    log_probs = run.model.log_probs(outputs)[:, 0].detach()
    by_hand = -float(log_probs[0, 2] + log_probs[1, 3] + log_probs[2, 0])
    assert _cost(run.model, [batch[1]]) == pytest.approx(by_hand, rel=1e-5)
    assert math.isfinite(by_hand)


def test_a_loss_that_is_no_number_ends_the_run(text: Path) -> None:
    run = Run(read_text([text], SMALL.words, SMALL.held_out), SMALL)
    run.step()
    with torch.no_grad():
        run.model.output.head.bias.fill_(math.inf)
    kept = run.model.output.head.weight.clone()
    with pytest.raises(TrainingError, match="at step 1; nothing was updated"):
        run.step()
    assert torch.equal(run.model.output.head.weight, kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"words": 2}, "words is 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"minutes": -1.0}, "minutes is -1.0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_what_cannot_be_learnt_from_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(DataError, match="no words to learn from"):
        train([tmp_path / "empty"], tmp_path / "lm", SMALL)
    with pytest.raises(DataError, match="cannot be read as text"):
        train([tmp_path / "none"], tmp_path / "lm", SMALL)
    with pytest.raises(DataError, match="too few for 500 streams of 16 words"):
        train([text], tmp_path / "lm", replace(SMALL, batch=500))
    assert not (tmp_path / "lm").exists()


def test_what_cannot_be_resumed_is_refused(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    with pytest.raises(ConfigError, match="nothing to resume"):
        train([text], folder, SMALL, resume=True)
    folder.mkdir()
    resume_file = folder / rnnlm_training.RESUME_FILE
    Run(read_text([text], SMALL.words, SMALL.held_out), SMALL).save(resume_file)
    with pytest.raises(ConfigError, match="holds an unfinished run"):
        train([text], folder, SMALL)
    with pytest.raises(ConfigError, match="with another span"):
        train([text], folder, replace(SMALL, span=9), resume=True)
    other = tmp_path / "other"
    other.write_text(text.read_text().replace("SAT", "LAY"))
    with pytest.raises(ConfigError, match="with another text"):
        train([other], folder, SMALL, resume=True)
    resume_file.write_bytes(resume_file.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="is damaged"):
        train([text], folder, SMALL, resume=True)


def test_the_command_line_trains_and_reports(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--batch 4 --span 8 --embedding 8 --hidden 16 --projection 8 --epochs 1 --threads 1"
    command = ["prepare", "rnnlm", str(text), "-o", str(tmp_path / "lm"), *sizes.split()]
    threads = torch.get_num_threads()
    try:
        assert cli.main(command) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    assert report["known_words"] == 11
    assert rnnlm.load(tmp_path / "lm")[1]["measured"] == report
    assert cli.main([*command, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
