"""A Tdnn: what it may hear, padding, and its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.tdnn import Tdnn, TdnnCheckpoint, TdnnConfig

TINY = TdnnConfig(width=16, bottleneck=8, fast_layers=1, reaches=(1, 2), heads=2, mel_bands=20)


def made(config: TdnnConfig = TINY, seed: int = 0) -> Tdnn:
    """With biases and norms that are not what they begin as, so that padding could be heard."""
    torch.manual_seed(seed)
    teacher = Tdnn(config, symbols=5).eval()
    for parameter in teacher.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return teacher


def sound(samples: int, rows: int = 1, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [400, 720, 1_039, 16_000, 16_320])
def test_there_are_as_many_frames_as_a_student_has(samples: int) -> None:
    output = made()(sound(samples))
    for said in output:
        assert said.shape == (1, (samples - 80) // 320, 5)
        torch.testing.assert_close(said.exp().sum(-1), torch.ones(said.shape[:2]))
    assert (output.log_probs - output.frame_log_probs).abs().max() > 0.01


@pytest.mark.parametrize("length", [9_680, 9_999, 10_000, 3_280])
def test_padding_changes_nothing(length: int) -> None:
    teacher, batch = made(), sound(16_080, rows=2)
    frames = (length - 80) // 320
    alone = teacher(batch[1:, :length]).log_probs[0]
    # What lies behind the end is not looked at, silent or not.
    together = teacher(batch, sample_counts=torch.tensor([16_080, length])).log_probs[1]
    torch.testing.assert_close(together[:frames], alone, atol=1e-5, rtol=0)
    longer = teacher(batch[1:, : length + 1_600]).log_probs[0]
    assert (longer[:frames] - alone).abs().max() > 1e-3


def test_it_hears_all_of_a_recording_and_not_how_loud_it_is() -> None:
    teacher, waveform = made(), sound(32_000)
    said = teacher(waveform).log_probs
    changed = waveform.clone()
    changed[:, 30_000:] *= 3
    assert (teacher(changed).log_probs[:, 0] - said[:, 0]).abs().max() > 1e-4
    # Of all but silence, which the floor of the logarithm sees.
    torch.testing.assert_close(teacher(2 * waveform).log_probs, said, atol=1e-3, rtol=0)


def test_masked_frames_and_bands_are_not_heard() -> None:
    teacher = made(replace(TINY, heads=2))
    waveform = sound(6_480)
    frames = torch.zeros(1, 20, dtype=torch.bool)
    frames[:, 5:9] = True
    bands = torch.zeros(1, 20, dtype=torch.bool)
    bands[:, 3:8] = True
    energies = teacher.energies(waveform, torch.tensor([20]))
    assert energies.shape == (1, 20, 2, 20)
    for mask in ({"frame_mask": frames}, {"band_mask": bands}):
        masked = teacher(waveform, **mask).log_probs
        assert (masked - teacher(waveform).log_probs).abs().max() > 1e-3
    torch.testing.assert_close(energies.sum(1), torch.zeros(1, 2, 20), atol=2e-3, rtol=0)


def test_a_folder_gives_the_same_teacher_again(tmp_path: Path) -> None:
    vocabulary = Vocabulary.words(["A", "B", "C", "D"])
    teacher = made()
    tdnn.save(tmp_path, TdnnCheckpoint(teacher, vocabulary, {"licence": "CC0"}))
    again = tdnn.load(tmp_path)
    assert (again.vocabulary, again.provenance) == (vocabulary, {"licence": "CC0"})
    assert again.tdnn.config == TINY
    waveform = sound(8_000)
    torch.testing.assert_close(again.tdnn(waveform).log_probs, teacher(waveform).log_probs)
    assert again.tdnn.parameter_count() == teacher.parameter_count()


def test_what_is_no_whole_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tdnn\.json"):
        tdnn.load(tmp_path)
    vocabulary = Vocabulary.words(["A", "B", "C", "D"])
    tdnn.save(tmp_path, TdnnCheckpoint(made(), vocabulary, {}))
    description = tmp_path / tdnn.DESCRIPTION
    content = json.loads(description.read_text())
    for change, said in (
        ({"version": 2}, "version 2"),
        ({"architecture": {**content["architecture"], "width": 32}}, "misshapen weights"),
        ({"architecture": {**content["architecture"], "depth": 3}}, "depth"),
        ({"architecture": {**content["architecture"], "reaches": []}}, "reaches"),
        ({"provenance": []}, "provenance"),
    ):
        description.write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=said):
            tdnn.load(tmp_path)
    description.write_text(json.dumps(content))
    (tmp_path / checkpoint.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        tdnn.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 18}, {"bottleneck": 7}, {"mel_bands": 0}, {"dropout": 1.0}, {"reaches": (1, 0)}],
)
def test_an_impossible_architecture_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(TINY, **wrong)  # type: ignore[arg-type]
