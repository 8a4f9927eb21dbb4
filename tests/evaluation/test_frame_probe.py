"""A probe finds what is in hidden states, and nothing where nothing is."""

import json

import numpy as np
import pytest
import soundfile
import torch

from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError
from rdsdk.evaluation.frame_probe import ProbeData, hidden_states, probe

VOCABULARY = Vocabulary.words(["LOW", "HIGH"])


@pytest.fixture
def manifest(tmp_path):
    """A second of silence, one of a low tone, one of a high one."""
    seconds = np.arange(16_000) / 16_000
    low, high = (0.3 * np.sin(2 * np.pi * hertz * seconds) for hertz in (200, 3000))
    soundfile.write(tmp_path / "a.wav", np.concatenate([0 * low, low, high]), 16_000)
    row = {"id": "a", "audio": "a.wav", "seconds": 3.0, "text": "LOW HIGH", "speaker": "tone"}
    row |= {"source": "made", "licence": "CC0"}
    aligned = row | {"alignment": [["LOW", 1.0, 2.0], ["HIGH", 2.0, 3.0]]}
    for name, value in (("aligned", aligned), ("plain", row)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(value) + "\n")
    return tmp_path


def spectrum(waveform):
    """Two layers: noise, and a crude spectrum."""
    frames = waveform.unfold(1, 400, 320)
    bands = torch.log(torch.fft.rfft(frames).abs() + 1e-3)
    noise = torch.randn(bands.shape, generator=torch.Generator().manual_seed(0))
    return [noise, bands]


def test_a_probe_names_frames_and_finds_the_layer_that_tells(manifest):
    cuts = list(read_cuts(manifest / "aligned.jsonl"))
    data = hidden_states(spectrum, cuts, VOCABULARY)
    assert data.hidden.shape == (2, 149, 201)
    assert data.targets.tolist().count(VOCABULARY.blank) == 50
    found = probe(data, data, VOCABULARY, steps=300)
    assert found.frame_error_rate < 0.03
    assert found.symbol_frame_error_rate < 0.03
    assert found.layer_weights[1] > found.layer_weights[0]
    assert found.frames == 149
    assert sum(found.layer_weights) == pytest.approx(1.0)


def test_where_nothing_is_nothing_is_found():
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(3, (3000,), generator=generator)
    train, held_out = (
        ProbeData(torch.randn(2, 3000, 8, generator=generator), targets) for _ in range(2)
    )
    found = probe(train, held_out, VOCABULARY, steps=100)
    assert found.frame_error_rate == pytest.approx(2 / 3, abs=0.05)
    again = probe(train, held_out, VOCABULARY, steps=100)
    assert again == found
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    probe(train, held_out, VOCABULARY, steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_recordings_must_be_aligned(manifest):
    with pytest.raises(DataError, match="a has no alignment"):
        hidden_states(spectrum, read_cuts(manifest / "plain.jsonl"), VOCABULARY)
    with pytest.raises(DataError, match="no recordings"):
        hidden_states(spectrum, [], VOCABULARY)
