"""``rdsdk analyze`` on real clips: tables, JSON, figures, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from transformers import HubertConfig, HubertModel

from rdsdk import cli
from rdsdk.models import checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student

ASSETS = Path(__file__).parent.parent / "assets"
SPEECH = str(ASSETS / "speech" / "manifest.jsonl")
DIGITS = str(Path(__file__).parent.parent.parent / "rdsdk" / "pretrained" / "digits")


def is_drawn(path: Path) -> bool:
    image = imread(path)
    return image.shape[0] > 300 and image.shape[1] > 900 and len(np.unique(image)) > 30


def written(folder: Path, what: str) -> dict:
    return json.loads((folder / f"{what}.json").read_text())


def tiny_checkpoint(folder: Path, exact: bool) -> str:
    """A student of width 32 with heads of width 32: the identity, or random ones."""
    torch.manual_seed(0)
    student = Student(preset("tiny"), projection_width=32)
    if exact:
        for head in student.projections:
            torch.nn.init.eye_(head.weight)
            torch.nn.init.zeros_(head.bias)
    checkpoint.save(folder, checkpoint.Checkpoint(student))
    return str(folder)


def test_attention_of_the_bundled_student_shows_its_own_reuse(tmp_path, capsys):
    output = tmp_path / "new" / "analysis"
    assert cli.main(["analyze", "attention", DIGITS, SPEECH, "-o", str(output)]) == 0
    told = capsys.readouterr().out
    assert "Of the even patterns 2by2 loses least: 0.0000 nats, 0 % of what" in told
    assert f"written to {output}: attention.png, attention.npz, attention.json" in told
    values = written(output, "attention")
    assert (values["teacher"], values["recordings"]) == ("digits", 3)
    # 5.035, 3.124 and 5.15 s.
    assert values["frames"] == 251 + 155 + 257
    patterns = {pattern["name"]: pattern for pattern in values["patterns"]}
    assert patterns["2by2"]["kl"] == 0
    assert patterns["2by2"]["map_owner"] == [0, 0, 2, 2]
    assert patterns["4by1"]["kl"] > 1
    heads = np.load(output / "attention.npz")
    assert heads["cosine"].shape == heads["kl"].shape == (4, 4, 4, 4)
    np.testing.assert_allclose(heads["cosine"][0], heads["cosine"][1], atol=1e-5)
    assert is_drawn(output / "attention.png")


def test_a_recording_counts_by_its_frames_and_alone(tmp_path):
    rows = [json.loads(line) for line in Path(SPEECH).read_text().splitlines()]
    results = []
    for number, chosen in enumerate((rows, rows[:1], rows[1:])):
        manifest = tmp_path / f"{number}.jsonl"
        for row in chosen:
            row["audio"] = str(ASSETS / "speech" / Path(row["audio"]).name)
        manifest.write_text("".join(json.dumps(row) + "\n" for row in chosen))
        assert (
            cli.main(
                ["analyze", "attention", DIGITS, str(manifest), "-o", str(tmp_path / str(number))]
            )
            == 0
        )
        results.append(written(tmp_path / str(number), "attention"))
    whole, first, others = results
    weights = [first["frames"], others["frames"]]
    for name in ("same_head_cosine", "same_head_kl", "flat_kl"):
        mean = np.average([first[name], others[name]], axis=0, weights=weights)
        np.testing.assert_allclose(whole[name], mean, atol=2e-5)
        assert not np.allclose(first[name], others[name], atol=1e-3)


def test_clips_and_seconds_bound_the_work(tmp_path, capsys):
    command = ["analyze", "attention", DIGITS, SPEECH, "-o", str(tmp_path), "--json"]
    assert cli.main([*command, "--clips", "2", "--seconds", "1"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["recordings"], values["frames"]) == (2, 2 * 49)
    assert values == written(tmp_path, "attention")


def test_layers_with_heads_that_are_right_and_heads_that_are_not(tmp_path, capsys):
    right = tiny_checkpoint(tmp_path / "right", exact=True)
    wrong = tiny_checkpoint(tmp_path / "wrong", exact=False)
    assert cli.main(["analyze", "layers", right, right, SPEECH, "-o", str(tmp_path / "a")]) == 0
    assert "right and its teacher right" in capsys.readouterr().out
    values = written(tmp_path / "a", "layers")
    assert values["teacher_layer"] == [0, 1, 2, 3]
    np.testing.assert_allclose(np.diagonal(values["cka"]), 1, atol=1e-6)
    np.testing.assert_allclose(values["head_cosine"], 1, atol=1e-5)
    np.testing.assert_allclose(values["head_relative_mse"], 0, atol=1e-5)
    assert is_drawn(tmp_path / "a" / "layers.png")
    # Negative control: the same hidden states, but heads that were never trained.
    assert cli.main(["analyze", "layers", right, wrong, SPEECH, "-o", str(tmp_path / "b")]) == 0
    values = written(tmp_path / "b", "layers")
    np.testing.assert_allclose(np.diagonal(values["cka"]), 1, atol=1e-6)
    assert np.abs(values["head_cosine"]).max() < 0.7
    assert min(values["head_relative_mse"]) > 0.5


def test_a_student_without_fitting_heads_is_compared_by_cka_alone(tmp_path, capsys):
    student = tiny_checkpoint(tmp_path / "student", exact=False)
    assert cli.main(["analyze", "layers", DIGITS, student, SPEECH, "-o", str(tmp_path)]) == 0
    assert "no projection heads that fit" in capsys.readouterr().out
    values = written(tmp_path, "layers")
    assert values["head_cosine"] is None
    assert np.shape(values["cka"]) == (4, 4)
    assert 0 < np.min(values["cka"]) < np.max(values["cka"]) < 0.9
    assert is_drawn(tmp_path / "layers.png")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["attention", "no/such/teacher", SPEECH], "there is no teacher at no/such/teacher"),
        (["attention", str(ASSETS), SPEECH], "neither config.json"),
        (["attention", DIGITS, "nowhere.jsonl"], "no data source at nowhere.jsonl"),
        (["layers", DIGITS, "nowhere", SPEECH], "nowhere is not a checkpoint"),
        (["attention", DIGITS, SPEECH, "--clips", "0"], "clips must be at least 1"),
        (["attention", DIGITS, SPEECH, "--seconds", "0"], "seconds must be positive"),
        (["attention", DIGITS, SPEECH, "--threads", "0"], "threads must be at least 1"),
        (["attention", DIGITS, SPEECH, "--device", "abacus"], "cannot use the device 'abacus'"),
        (["attention", DIGITS, SPEECH, "-o", SPEECH], "cannot make the folder"),
    ],
)
def test_a_wrong_argument_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["analyze", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("rdsdk: error: ")
    assert told in captured.err


def test_clips_shorter_than_a_frame_are_left_out_and_counted(tmp_path, capsys):
    rows = []
    for name, samples in (("long", 8_000), ("short", 300)):
        waveform = 0.1 * np.random.default_rng(0).normal(size=samples)
        soundfile.write(tmp_path / f"{name}.wav", waveform, 16_000)
        rows.append({"id": name, "audio": f"{name}.wav", "seconds": samples / 16_000})
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["analyze", "attention", DIGITS, str(manifest), "-o", str(tmp_path)]
    assert cli.main(command) == 0
    assert "left out 1 recordings shorter than a frame" in capsys.readouterr().err
    assert written(tmp_path, "attention")["recordings"] == 1
    manifest.write_text(json.dumps(rows[1]) + "\n")
    assert cli.main(command) == 2


def test_a_transformers_teacher_leaves_the_error_stream_clean(tmp_path):
    config = HubertConfig(
        hidden_size=32,
        intermediate_size=40,
        num_attention_heads=4,
        num_hidden_layers=3,
        conv_dim=[12] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    command = ["-m", "rdsdk.cli", "analyze", "attention", str(tmp_path / "hubert"), SPEECH]
    done = subprocess.run(
        [sys.executable, *command, "-o", str(tmp_path / "out"), "--clips", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "Attention maps of hubert" in done.stdout
