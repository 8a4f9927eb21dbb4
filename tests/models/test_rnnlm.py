"""The recurrent language model against arithmetic by hand, its state, and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.models.checkpoint import WEIGHTS
from rdsdk.models.rnnlm import (
    DESCRIPTION,
    RnnLm,
    RnnLmConfig,
    State,
    fitting_cutoffs,
    load,
    save,
)
from tests.models.tiny_rnnlm import CONFIG, TIED, WORDS, tiny_rnnlm


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalised(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def row_by_hand(weights: dict[str, np.ndarray], config: RnnLmConfig, word: int) -> np.ndarray:
    """What is read of a word."""
    if config.embedding is not None:
        return weights["embedding.weight"][word]
    first, second = config.cutoffs
    if word < first:
        return weights["output.head.weight"][word]
    number, begin = (0, first) if word < second else (1, second)
    narrow, rows = (weights[f"output.tail.{number}.{each}.weight"] for each in (0, 1))
    return narrow.T @ rows[word - begin]


def by_hand(model: RnnLm, words: list[int], gates: str = "ifgo") -> np.ndarray:
    """Log probabilities (T, V) after each word of one sentence, in float64."""
    weights = {name: each.double().numpy() for name, each in model.state_dict().items()}
    hidden, cell = np.zeros(model.config.projection), np.zeros(model.config.hidden)
    rows = []
    for word in words:
        row = row_by_hand(weights, model.config, word)
        product = weights["lstm.weight_ih_l0"] @ row + weights["lstm.bias_ih_l0"]
        product += weights["lstm.weight_hh_l0"] @ hidden + weights["lstm.bias_hh_l0"]
        gate = dict(zip(gates, np.split(product, 4), strict=True))
        cell = sigmoid(gate["f"]) * cell + sigmoid(gate["i"]) * np.tanh(gate["g"])
        hidden = weights["lstm.weight_hr_l0"] @ (sigmoid(gate["o"]) * np.tanh(cell))
        head = normalised(weights["output.head.weight"] @ hidden + weights["output.head.bias"])
        parts = [head[: model.config.cutoffs[0]]]
        for number in range(len(model.config.cutoffs)):
            narrow = weights[f"output.tail.{number}.0.weight"] @ hidden
            within = normalised(weights[f"output.tail.{number}.1.weight"] @ narrow)
            parts.append(head[model.config.cutoffs[0] + number] + within)
        rows.append(np.concatenate(parts))
    return np.array(rows)


@pytest.mark.parametrize("config", [CONFIG, TIED])
def test_log_probs_and_loss_are_those_of_the_papers(config: RnnLmConfig) -> None:
    model, words, targets = tiny_rnnlm(config=config), [0, 5, 1, 30, 59], [5, 1, 30, 59, 0]
    outputs, _ = model(torch.tensor(words)[:, None], model.fresh_state(1))
    log_probs = model.log_probs(outputs)[:, 0].detach().numpy()
    expected = by_hand(model, words)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(axis=1), 1)
    nats = -expected[np.arange(5), targets].mean()
    assert model.loss(outputs, torch.tensor(targets)[:, None]).item() == pytest.approx(nats, 1e-5)
    # Negative control: with two gates exchanged nothing agrees.
    assert np.abs(by_hand(model, words, gates="figo") - log_probs).max() > 0.05


def test_a_text_in_pieces_is_the_text_if_the_state_goes_along() -> None:
    model = tiny_rnnlm()
    words = torch.arange(24).reshape(8, 3) % len(WORDS)
    whole, last = model(words, model.fresh_state(3))
    first, state = model(words[:5], model.fresh_state(3))
    second, state = model(words[5:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(tuple(state), tuple(last))
    assert [tuple(each.shape) for each in state] == [(3, 32), (3, 48)]
    # Negative control: without the cell something is forgotten.
    forgotten, _ = model(
        words[5:], State(model(words[:5], model.fresh_state(3))[1][0], 0 * last[1])
    )
    assert (forgotten - whole[5:]).abs().max() > 0.01


@pytest.mark.parametrize("config", [CONFIG, TIED])
def test_what_is_saved_is_loaded(tmp_path: Path, config: RnnLmConfig) -> None:
    known = {"licence": "CC0", "training_data": ["nothing"]}
    model = tiny_rnnlm(config=config)
    loaded, provenance = load(save(tmp_path / "lm", model, known))
    assert provenance == known
    assert loaded.config == config
    assert not loaded.training
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_the_usual_model_has_its_size() -> None:
    words = ("</s>", "<unk>", *(str(number) for number in range(23_998)))
    with torch.device("meta"):
        assert RnnLm(RnnLmConfig(words)).parameter_count() == 8_273_338
        assert RnnLm(RnnLmConfig(words, embedding=None)).parameter_count() == 3_796_410


@pytest.mark.parametrize(
    ("words", "cutoffs"), [(24_000, (3000, 10_000)), (5000, (3000,)), (9, (4,))]
)
def test_a_small_vocabulary_gets_the_cutoffs_that_it_has_room_for(
    words: int, cutoffs: tuple[int, ...]
) -> None:
    assert fitting_cutoffs(words) == cutoffs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": WORDS[::-1]}, "the words begin with"),
        ({"words": (*WORDS, "WORD0")}, "there twice"),
        ({"words": (*WORDS, "A B")}, "holds a blank"),
        ({"projection": 48}, "projection below hidden"),
        ({"cutoffs": (40, 20)}, "rising"),
        ({"cutoffs": ()}, "rising"),
        ({"cutoffs": (20, 60)}, "below 60"),
        ({"projection": 3}, "leaves no width"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "rdsdk-checkpoint"}, "no format"),
        ({"version": 2}, "upgrade rdsdk"),
        ({"more": 1}, "unknown .*more"),
        ({"provenance": []}, "must be objects"),
        ({"config": {"words": []}}, "fields missing"),
        ({"config": CONFIG.to_dict() | {"hidden": "48"}}, "whole numbers as widths"),
        ({"config": CONFIG.to_dict() | {"hidden": 8}}, "projection below hidden"),
        ({"config": CONFIG.to_dict() | {"hidden": 64}}, "size mismatch for lstm.weight_ih_l0"),
    ],
)
def test_a_damaged_description_is_refused(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = save(tmp_path, tiny_rnnlm(), {}) / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no rnnlm\.json"):
        load(tmp_path)
    weights = save(tmp_path, tiny_rnnlm(), {}) / WEIGHTS
    good = {name: each.clone() for name, each in tiny_rnnlm().state_dict().items()}
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load(tmp_path)
    save_file({name: each for name, each in good.items() if "head.bias" not in name}, weights)
    with pytest.raises(CheckpointError, match=r"output\.head\.bias"):
        load(tmp_path)
    save_file(good | {"lstm.bias_ih_l0": good["lstm.bias_ih_l0"] * float("nan")}, weights)
    with pytest.raises(CheckpointError, match=r"lstm\.bias_ih_l0.*not finite"):
        load(tmp_path)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load(tmp_path)
