"""The head of a probe: its mixture, its LSTMs, its masks, and its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import CheckpointError, ConfigError
from rdsdk.evaluation.probe_head import (
    HeadCheckpoint,
    HeadSettings,
    ProbeHead,
    load_head,
    save_head,
    spans,
)

LINEAR = HeadSettings(projection=6)
LSTM = HeadSettings(kind="lstm", projection=6, units=5, dropout=0.0)
VOCABULARY = Vocabulary.words(["K", "AE", "T"])


def states(rows: int = 2, frames: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(rows, frames, 4, generator=generator) for _ in range(3)]


def made(settings: HeadSettings) -> ProbeHead:
    torch.manual_seed(1)
    return ProbeHead(settings, 3, 4, len(VOCABULARY)).eval()


def test_the_mixture_is_a_sum_with_softmax_weights_that_learn() -> None:
    head, hidden, counts = made(LINEAR), states(), torch.tensor([9, 9])
    assert head.mix is not None
    # At first even, as SUPERB's.
    torch.testing.assert_close(head.layer_weights, torch.full((3,), 1 / 3))
    torch.testing.assert_close(head.mixed(hidden), sum(hidden) / 3)
    before = head(hidden, counts)
    head.mix.data = torch.tensor([0.5, -1.0, 2.0])
    weights = torch.tensor([0.5, -1.0, 2.0]).exp()
    weights = weights / weights.sum()
    expected = sum(w * h for w, h in zip(weights, hidden, strict=True))
    torch.testing.assert_close(head.mixed(hidden), expected)
    # Negative control: other weights, other log_probs; and they have gradients.
    after = head(hidden, counts)
    assert (after - before).abs().max() > 1e-2
    after[..., 1].sum().backward()
    assert head.mix.grad is not None
    assert head.mix.grad.abs().min() > 1e-5
    torch.testing.assert_close(after.exp().sum(-1), torch.ones(2, 9))


@pytest.mark.parametrize(("layer", "state"), [(0, 1), (1, 2), (-1, 2), (-2, 1)])
def test_one_layer_alone_can_be_chosen(layer: int, state: int) -> None:
    head, hidden = made(replace(LINEAR, layer=layer)), states()
    assert head.mix is None
    assert torch.equal(head.mixed(hidden), hidden[state])
    assert head.layer_weights.tolist() == [float(number == state) for number in range(3)]


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_the_model_lacks_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"layers 0 to 1 .* got head.layer {layer}"):
        made(replace(LINEAR, layer=layer))


@torch.no_grad()
def test_lstms_begin_at_the_end_of_each_recording() -> None:
    head, hidden = made(LSTM), states()
    padded = head(hidden, torch.tensor([9, 5]))
    alone = head([state[1:, :5] for state in hidden], torch.tensor([5]))
    torch.testing.assert_close(padded[1:, :5], alone, atol=1e-6, rtol=0)
    # Negative control: with its padding taken for sound the backward direction hears it.
    heard = head(hidden, torch.tensor([9, 9]))
    assert (heard[1, :5] - alone[0]).abs().max() > 1e-3
    # And both directions are there: the first frame depends on the last, the last on the first.
    for changed, seen in ((8, 0), (0, 8)):
        others = [state.clone() for state in hidden]
        others[2][0, changed] += 1
        difference = head(others, torch.tensor([9, 5]))[0, seen] - padded[0, seen]
        assert difference.abs().max() > 1e-6


@torch.no_grad()
def test_a_head_stays_in_float32_and_hides_what_is_masked() -> None:
    head, hidden, counts = made(LSTM), states(), torch.tensor([9, 9])
    plain = head(hidden, counts)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(hidden, counts), plain)
    mask = torch.zeros(2, 9, 4, dtype=torch.bool)
    assert torch.equal(head(hidden, counts, mask), plain)
    mask[0, 3:6] = True
    silenced = [state.clone() for state in hidden]
    for state in silenced:
        state[0, 3:6] = 0
    torch.testing.assert_close(head(hidden, counts, mask), head(silenced, counts))
    assert (head(hidden, counts, mask)[0] - plain[0]).abs().max() > 1e-3


def test_masks_lie_within_each_recording_and_are_drawn_again_alike() -> None:
    counts = torch.tensor([100, 7, 0])

    def drawn(seed: int) -> Tensor:
        return spans(counts, 2, 10, torch.Generator().manual_seed(seed))

    masks = torch.stack([drawn(seed) for seed in range(200)])
    assert masks.shape == (200, 3, 100)
    assert not masks[:, 1, 7:].any()
    assert not masks[:, 2].any()
    assert masks[:, 0].sum(dim=1).max() <= 20
    # Every place can be masked, and about as much as 2 spans of 0 to 10 of 100 frames are.
    assert masks[:, 0].any(dim=0).all()
    assert masks[:, 0].float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))


@pytest.mark.parametrize("settings", [LINEAR, LSTM, replace(LSTM, layer=-1)])
@torch.no_grad()
def test_a_head_is_read_back_bit_for_bit(tmp_path: Path, settings: HeadSettings) -> None:
    head, hidden, counts = made(settings), states(), torch.tensor([9, 5])
    if head.mix is not None:
        head.mix.data = torch.tensor([0.1, 0.7, -0.4])
    save_head(tmp_path / "head", HeadCheckpoint(head, VOCABULARY, {"model": "tiny"}))
    read = load_head(tmp_path / "head")
    assert torch.equal(read.head(hidden, counts), head(hidden, counts))
    assert (read.vocabulary, read.provenance) == (VOCABULARY, {"model": "tiny"})
    assert read.head.settings == settings


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", HeadCheckpoint(made(LINEAR), VOCABULARY))
    description = (folder / "head.json").read_text()
    for old, new, message in (
        ('"version": 1', '"version": 2', "version 2"),
        ('"projection": 6', '"projection": 7', "size mismatch|Error"),
        ('"kind": "linear"', '"kind": "lyre"', "head.kind"),
        ('"width"', '"breadth"', "does not describe"),
        ("{", "", "no whole head"),
    ):
        (folder / "head.json").write_text(description.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=message):
            load_head(folder)
    (folder / "head.json").write_text(description)
    (folder / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no whole head"):
        load_head(folder)
    with pytest.raises(CheckpointError, match="no whole head"):
        load_head(tmp_path / "none")


def test_an_impossible_head_is_refused() -> None:
    for changes in ({"kind": "gru"}, {"projection": 0}, {"units": 0}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match="head"):
            replace(LSTM, **changes)  # type: ignore[arg-type]
