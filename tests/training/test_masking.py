"""Masks cover what they should, in whole spans, and never padding."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from rdsdk.errors import ConfigError
from rdsdk.training.masking import Masking, channel_mask, mask_ratio, span_mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs(row: torch.Tensor) -> tuple[list[int], list[int]]:
    """Lengths of the masked runs, and of the unmasked ones strictly between them."""
    masked = np.flatnonzero(row.numpy())
    if not len(masked):
        return [], []
    parts = np.split(masked, np.flatnonzero(np.diff(masked) > 1) + 1)
    gaps = [int(b[0] - a[-1] - 1) for a, b in itertools.pairwise(parts)]
    return [len(part) for part in parts], gaps


@pytest.mark.parametrize("overlap", [True, False])
def test_padding_is_never_masked_and_every_frame_before_it_may_be(overlap: bool) -> None:
    counts = torch.tensor([500, 37, 10, 9, 0, 200])
    seen = torch.zeros(6, 500, dtype=torch.bool)
    rng = generator()
    for _ in range(300):
        mask = span_mask(6, counts, 0.5, 10, rng, overlap=overlap)
        assert mask.shape == (6, 500)
        assert mask.dtype == torch.bool
        seen |= mask
    expected = torch.arange(500) < counts[:, None]
    expected[3] = False  # shorter than a span
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("space", [0, 1, 5])
def test_spans_without_overlap_are_whole_and_apart(space: int) -> None:
    counts = torch.tensor([499, 123, 60])
    rng = generator()
    for _ in range(100):
        mask = span_mask(3, counts, 0.8, 10, rng, overlap=False, minimum_space=space)
        for row in mask:
            lengths, gaps = runs(row)
            if space:
                assert set(lengths) == {10}
                assert all(gap >= space for gap in gaps)
            else:
                assert all(length % 10 == 0 for length in lengths)


def test_spans_with_overlap_do_overlap() -> None:
    mask = span_mask(8, torch.full((8,), 500), 0.8, 10, generator())
    assert any(length > 10 for row in mask for length in runs(row)[0])


@pytest.mark.parametrize("probability", [0.1, 0.4, 0.65])
def test_spans_that_fit_cover_the_probability(probability: float) -> None:
    mask = span_mask(400, torch.full((400,), 333), probability, 10, generator(), overlap=False)
    expected = {0.1: 0.1, 0.4: 0.4, 0.65: 0.645}[probability]  # at 0.65 some find no room
    assert mask.float().mean().item() == pytest.approx(expected, abs=0.01)


def test_overlapping_spans_cover_what_independent_starts_would() -> None:
    # 65 of 991 places are starts; a frame in the middle is free if none of its 10 places is one.
    mask = span_mask(400, torch.full((400,), 1_000), 0.65, 10, generator())
    middle = mask[:, 100:900].float().mean().item()
    assert middle == pytest.approx(1 - math.comb(981, 65) / math.comb(991, 65), abs=0.005)


def test_the_published_recipe_masks_as_its_own_procedure_does() -> None:
    ours = span_mask(300, torch.full((300,), 500), 0.8, 10, generator(), overlap=False)
    rng = np.random.default_rng(1)
    reference = np.mean([_one_after_the_other(500, 40, 10, 1, rng) for _ in range(300)])
    assert ours.float().mean().item() == pytest.approx(reference, abs=0.01)
    spread = np.mean([_one_after_the_other(500, 40, 10, 8, rng) for _ in range(300)])
    assert abs(spread - reference) > 0.05  # another procedure is told apart


def _one_after_the_other(
    frames: int, spans: int, length: int, space: int, rng: np.random.Generator
) -> float:
    """The masked share when spans are tried at all places still free, room by room."""
    free = np.ones(frames - length + 1, bool)
    placed = 0
    for _ in range(spans):
        # The room is chosen by its frames, then the place within it evenly: as published.
        edges = np.flatnonzero(np.diff(np.concatenate([[0], free, [0]])))
        rooms = edges.reshape(-1, 2)
        if not len(rooms):
            break
        weights = (rooms[:, 1] - rooms[:, 0] + length - 1).astype(float)
        begin, end = rooms[rng.choice(len(rooms), p=weights / weights.sum())]
        start = int(rng.integers(begin, end))
        free[max(0, start - length - space + 1) : start + length + space] = False
        placed += 1
    return placed * length / frames


def test_the_number_of_spans_is_rounded_so_that_its_mean_is_right() -> None:
    # 0.25 x 50 / 10 = 1.25 spans: one or two, a quarter of the rows two.
    mask = span_mask(2_000, torch.full((2_000,), 50), 0.25, 10, generator(), overlap=False)
    spans = mask.sum(dim=1) // 10
    assert set(spans.tolist()) == {1, 2}
    assert (spans == 2).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_minimum_spans_hold_where_there_is_room() -> None:
    mask = span_mask(3, torch.tensor([100, 20, 5]), 0.01, 10, generator(), minimum_spans=2)
    assert [int(count) > 0 for count in mask.sum(dim=1)] == [True, True, False]
    assert all(10 <= int(count) <= 20 for count in mask.sum(dim=1)[:2])


def test_probability_zero_masks_nothing_and_one_much() -> None:
    counts = torch.tensor([50, 30])
    assert not span_mask(2, counts, 0.0, 10, generator(), minimum_spans=2).any()
    assert span_mask(2, counts, 1.0, 1, generator()).sum() == 80


def test_a_generator_state_gives_one_mask() -> None:
    counts = torch.tensor([200, 150])
    first, again = (span_mask(2, counts, 0.5, 10, generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, span_mask(2, counts, 0.5, 10, generator(4)))
    state = torch.get_rng_state()
    span_mask(2, counts, 0.5, 10, generator(3), overlap=False)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


def test_channels_are_masked_in_spans() -> None:
    mask = channel_mask(200, 480, 0.1, 64, generator())
    assert mask.shape == (200, 480)
    lengths = [length for row in mask for length in runs(row)[0]]
    assert min(lengths) == 64
    assert mask.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_an_empty_batch_has_an_empty_mask() -> None:
    assert span_mask(0, torch.zeros(0, dtype=torch.int64), 0.5, 10, generator()).shape == (0, 0)


@pytest.mark.parametrize(
    ("probability", "span", "others"),
    [(1.1, 10, {}), (-0.1, 10, {}), (0.5, 0, {}), (0.5, 10, {"minimum_space": -1})],
)
def test_impossible_settings_are_refused(
    probability: float, span: int, others: dict[str, int]
) -> None:
    with pytest.raises(ConfigError):
        span_mask(1, torch.tensor([50]), probability, span, generator(), **others)
    with pytest.raises(ConfigError, match=r"frame_counts must be \(2,\)"):
        span_mask(2, torch.tensor([50]), 0.5, 10, generator())


def test_ratios_follow_their_schedules() -> None:
    places = [0.0, 0.25, 0.5, 1.0, 1.5]
    assert [mask_ratio([0.4], "fixed", place, 3) for place in places] == [0.4] * 5
    linear = [mask_ratio([0.2, 0.8], "linear", place, 0) for place in places]
    assert linear == pytest.approx([0.2, 0.35, 0.5, 0.8, 0.8])
    cosine = [mask_ratio([0.8, 0.2], "cosine", place, 0) for place in places]
    assert cosine == pytest.approx([0.8, 0.5 + 0.3 * math.cos(math.pi / 4), 0.5, 0.2, 0.2])
    listed = [mask_ratio([0.1, 0.5, 0.3], "epochs", 0.9, epoch) for epoch in range(5)]
    assert listed == [0.1, 0.5, 0.3, 0.3, 0.3]


def test_an_utterances_mask_does_not_depend_on_its_batch() -> None:
    masking = Masking(ratio=(0.5,))
    together = masking.masks(["a", "b", "c"], torch.tensor([200, 120, 5]), 210, 0.5, draw=3)
    assert together.shape == (3, 210)
    alone = masking.masks(["b"], torch.tensor([120]), 120, 0.5, draw=3)
    assert torch.equal(together[1, :120], alone[0])
    assert not together[1, 120:].any()
    assert not together[2].any()  # shorter than a span
    assert not torch.equal(alone, masking.masks(["b"], torch.tensor([120]), 120, 0.5, draw=4))
    assert not torch.equal(alone, masking.masks(["x"], torch.tensor([120]), 120, 0.5, draw=3))
    for row in together[:2]:
        lengths, gaps = runs(row)
        assert set(lengths) == {10}
        assert min(gaps) >= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": (0.4, 0.5)},
        {"ratio": (0.4,), "schedule": "linear"},
        {"ratio": (1.4,)},
        {"ratio": (), "schedule": "epochs"},
    ],
)
def test_ratios_that_do_not_fit_their_schedule_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="mask ratio"):
        Masking(**settings)
