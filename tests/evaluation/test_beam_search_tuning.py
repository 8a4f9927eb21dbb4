"""Weights of a search chosen on development data, and the prior that goes into the model."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from rdsdk.data.manifest import read_cuts
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.evaluation.hearing import heard_log_probs
from rdsdk.evaluation.search_tuning import (
    LADDERS,
    Setting,
    climb,
    hear,
    main,
    rebiased,
    symbol_prior,
    without_prior,
)
from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student

SPEECH = sorted((Path(__file__).parents[1] / "assets" / "speech").glob("*.flac"))


@pytest.fixture
def model() -> Checkpoint:
    torch.manual_seed(0)
    vocabulary = Vocabulary.characters()
    return Checkpoint(Student(preset("tiny"), symbols=len(vocabulary)).eval(), vocabulary, {})


@pytest.fixture
def clips(tmp_path):
    rows = [
        {"id": path.stem, "audio": str(path), "seconds": soundfile.info(path).duration, "text": "A"}
        for path in SPEECH[:2]
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "best",
    [
        Setting(0.5, 2.0, -1.0),
        Setting(0.0, 0.0, 3.0),
        Setting(1.0, 4.0, -4.0),
        Setting(0.5, 1.0, 1.0, 0.75),
    ],
)
def test_a_climb_ends_at_the_best_of_a_simple_hill(best):
    recurrent = best.rnnlm_share is not None

    def measure(setting: Setting) -> float:
        return sum(
            abs(ladder.index(getattr(setting, name)) - ladder.index(getattr(best, name)))
            for name, ladder in LADDERS.items()
            if recurrent or name != "rnnlm_share"
        )

    tried = climb(measure, Setting(rnnlm_share=0.5 if recurrent else None))
    assert min(tried, key=lambda setting: tried[setting]) == best
    assert len(tried) < 40  # of 360, or 1800


def test_a_climb_may_begin_between_the_rungs():
    tried = climb(lambda setting: abs(setting.lm_weight - 1.5), Setting(lm_weight=0.9))
    assert min(tried, key=lambda setting: tried[setting]).lm_weight == 1.5
    assert {setting.lm_weight for setting in tried} >= {0.9, 1.0, 1.5, 2.0}


def test_a_prior_is_what_the_model_says_on_average():
    half = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).clamp(min=1e-9).log()
    prior = symbol_prior([half[:1], half[1:]])
    assert prior.exp().tolist() == pytest.approx([0.75, 0.25, 1e-6], abs=1e-6)
    taken = without_prior(half[:1], prior, 1.0).exp()[0]
    # 0.5 / 0.75 and 0.5 / 0.25, made to sum to one.
    assert taken[:2].tolist() == pytest.approx([0.25, 0.75], abs=1e-3)
    assert torch.equal(without_prior(half, prior, 0.0), half.log_softmax(-1))


def test_the_share_becomes_a_part_of_the_model(model, clips):
    _, heard = hear(model, [clips], 1)
    prior = symbol_prior(heard)
    samples = load_waveform(next(iter(read_cuts(clips))))
    said = heard_log_probs(rebiased(model, prior, 0.5).student, samples)
    assert (said - without_prior(heard[0], prior, 0.5)).abs().max() < 1e-4
    assert (said - heard[0]).abs().max() > 0.01  # which it was not before
    assert rebiased(model, prior, 0.5).provenance["prior_share"] == 0.5


def test_the_command_tells_and_writes(model, clips, tmp_path, write_arpa, capsys):
    folder = checkpoint.save(tmp_path / "model", model)
    lm = write_arpa(tmp_path / "lm.arpa", "I", "A")
    command = [str(folder), str(clips), "--lm", str(lm), "--beam=5"]
    assert main([*command, "--every", "2", "-o", str(tmp_path / "tuned")]) == 0
    said = capsys.readouterr().out
    assert "--lm-weight " in said
    assert "--word-score=" in said
    tuned = checkpoint.load(tmp_path / "tuned")
    assert 0.0 <= tuned.provenance["prior_share"] <= 1.0
    assert tuned.vocabulary == model.vocabulary


def test_what_cannot_be_tuned_is_told(model, clips, tmp_path, write_arpa, capsys):
    folder = checkpoint.save(tmp_path / "model", model)
    assert main([str(folder), str(clips)]) == 2
    assert "give one with --lm" in capsys.readouterr().err
    lm = ["--lm", str(write_arpa(tmp_path / "lm.arpa", "I", "A"))]
    assert main([str(folder), str(clips), *lm, "--every", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert main([str(folder), str(tmp_path / "none.jsonl"), *lm]) == 2
    assert "none.jsonl" in capsys.readouterr().err
