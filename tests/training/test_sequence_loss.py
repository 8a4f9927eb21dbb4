"""Sums over all ways through the phones, beside every way counted one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from rdsdk.data.alignment import PADDING
from rdsdk.training.sequence_loss import (
    TOLERANCE_FRAMES,
    PhoneTrigram,
    any_phones,
    lattice_free_mmi,
    said_phones,
)

SYMBOLS, FRAMES = 3, 4


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(2, FRAMES, SYMBOLS, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def trigram() -> PhoneTrigram:
    generator = torch.Generator().manual_seed(4)
    said = [torch.randint(0, SYMBOLS, (40,), generator=generator).tolist() for _ in range(4)]
    return PhoneTrigram.of(said, SYMBOLS)


def every_way(scores_tv: Tensor, trigram: PhoneTrigram) -> Tensor:
    """log of the sum over every phone sequence and alignment, each walked by itself."""
    begin, follow = trigram.begin_vv, trigram.follow_vvv
    likely = scores_tv.double().exp()

    def rest(t: int, before: int, now: int) -> Tensor:
        if t == len(scores_tv):
            return torch.ones((), dtype=torch.float64)
        stays = 0.5 * likely[t, now] * rest(t + 1, before, now)
        goes = [
            0.5 * follow[before, now, after] * likely[t, after] * rest(t + 1, now, after)
            for after in range(SYMBOLS)
        ]
        return torch.stack([stays, *goes]).sum()

    pairs = itertools.product(range(SYMBOLS), repeat=2)
    return torch.stack([begin[a, b] * likely[0, b] * rest(1, a, b) for a, b in pairs]).sum().log()


def near_ways(scores_tv: Tensor, targets: list[int], tolerance: int) -> Tensor:
    """The same over the alignments of one phone sequence near the known one."""
    runs = [(symbol, len(list(run))) for symbol, run in itertools.groupby(targets)]
    edges = list(itertools.accumulate((length for _, length in runs), initial=0))
    total = []
    for cut in itertools.combinations(range(1, len(targets)), len(runs) - 1):
        starts, ends = (0, *cut), (*cut, len(targets))
        fits = all(
            start >= edges[run] - tolerance and end <= edges[run + 1] + tolerance
            for run, (start, end) in enumerate(zip(starts, ends, strict=True))
        )
        if fits:
            path = [
                symbol
                for (symbol, _), a, b in zip(runs, starts, ends, strict=True)
                for _ in range(b - a)
            ]
            total.append(scores_tv.double()[range(len(targets)), path].sum())
    return torch.stack(total).logsumexp(0) + (len(targets) - 1) * math.log(0.5)


def test_any_phones_is_the_sum_over_every_way(scores: Tensor, trigram: PhoneTrigram) -> None:
    counts = torch.tensor([FRAMES, 3])
    found, _ = any_phones(scores, counts, trigram)
    for row, count in enumerate(counts.tolist()):
        expected = every_way(scores[row, :count], trigram)
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-5)
    # The sum is of this trigram and of these frames: others give another.
    other = PhoneTrigram(trigram.begin_vv, trigram.follow_vvv.roll(1, -1))
    otherwise, _ = any_phones(scores, counts, other)
    assert float(otherwise[0]) != pytest.approx(float(found[0]), abs=1e-3)


def test_said_phones_is_the_sum_over_the_alignments_nearby() -> None:
    targets = [0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 1]
    scores = torch.randn(1, len(targets), SYMBOLS, generator=torch.Generator().manual_seed(5))
    found, _ = said_phones(scores, torch.tensor([len(targets)]), torch.tensor([targets]))
    assert float(found) == pytest.approx(
        float(near_ways(scores[0], targets, TOLERANCE_FRAMES)), abs=1e-6
    )
    wider = near_ways(scores[0], targets, len(targets))
    assert float(found) < float(wider) - 1e-3


def test_gradients_are_those_of_the_sums(trigram: PhoneTrigram) -> None:
    targets = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 2]])
    counts = torch.tensor([FRAMES, 3])
    scores = torch.randn(2, FRAMES, SYMBOLS, generator=torch.Generator().manual_seed(6))
    counted = scores.clone().requires_grad_()
    rows = [
        every_way(counted[row, :count], trigram)
        - near_ways(counted[row, :count], targets[row, :count].tolist(), TOLERANCE_FRAMES)
        for row, count in enumerate(counts.tolist())
    ]
    expected = torch.stack(rows).sum() / counts.sum()
    expected.backward()
    given = scores.clone().requires_grad_()
    loss = lattice_free_mmi(given, counts, targets, trigram)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert counted.grad is not None
    assert given.grad is not None
    torch.testing.assert_close(given.grad, counted.grad, atol=1e-5, rtol=1e-4)
    assert (given.grad[1, 3] == 0).all()  # behind the second utterance


def test_padding_changes_nothing(trigram: PhoneTrigram) -> None:
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(2, 60, SYMBOLS, generator=generator)
    targets = torch.randint(0, SYMBOLS, (2, 15), generator=generator).repeat_interleave(4, dim=1)
    both_sum, both = any_phones(scores, torch.tensor([60, 41]), trigram)
    one_sum, one = any_phones(scores[1:, :41], torch.tensor([41]), trigram)
    torch.testing.assert_close(both[1, :41], one[0])
    torch.testing.assert_close(both_sum[1:], one_sum)
    both_sum, both = said_phones(scores, torch.tensor([60, 41]), targets)
    one_sum, one = said_phones(scores[1:, :41], torch.tensor([41]), targets[1:, :41])
    torch.testing.assert_close(both[1, :41], one[0])
    torch.testing.assert_close(both_sum[1:], one_sum)
    torch.testing.assert_close(both[0].sum(-1), torch.ones(60))


def test_a_constant_of_a_frame_changes_nothing(scores: Tensor, trigram: PhoneTrigram) -> None:
    targets, counts = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 2]]), torch.tensor([FRAMES, 3])
    shift = torch.randn(2, FRAMES, 1, generator=torch.Generator().manual_seed(8)) * 5
    plain = lattice_free_mmi(scores, counts, targets, trigram)
    shifted = lattice_free_mmi(scores + shift, counts, targets, trigram)
    assert shifted.item() == pytest.approx(plain.item(), abs=1e-5)


def test_long_and_certain_speech_stays_finite() -> None:
    """Scores of minus a thousand for all but one phone, over ten thousand frames."""
    targets = torch.arange(2500).remainder(SYMBOLS).repeat_interleave(4)[None]
    trigram = PhoneTrigram.of([torch.unique_consecutive(targets[0]).tolist()], SYMBOLS)
    scores = torch.full((1, targets.shape[1], SYMBOLS), -1000.0)
    scores.scatter_(2, targets[..., None], 0.0)
    scores.requires_grad_()
    loss = lattice_free_mmi(scores, torch.tensor([targets.shape[1]]), targets, trigram)
    loss.backward()
    assert scores.grad is not None
    assert math.isfinite(loss.item())
    assert scores.grad.isfinite().all()
    # What was said takes nearly all of what could be said: little is left to learn.
    assert scores.grad.abs().max() < 1e-3 / targets.shape[1] + 1e-6


def test_trigram_counts_what_follows() -> None:
    trigram = PhoneTrigram.of([[0, 1, 2] * 200], SYMBOLS)
    assert trigram.follow_vvv[0, 1, 2] > 0.9
    assert trigram.follow_vvv[0, 1, 0] < 0.05
    torch.testing.assert_close(trigram.follow_vvv.sum(-1), torch.ones(SYMBOLS, SYMBOLS))
    assert float(trigram.begin_vv.sum()) == pytest.approx(1.0)


def test_gradients_are_exact_where_the_rest_is_in_bfloat16() -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 20, (1, 60)).repeat_interleave(5, dim=1)
    trigram = PhoneTrigram.of([torch.unique_consecutive(targets[0]).tolist()], 20)
    scores, counts, grads = (
        torch.randn(1, 300, 20).log_softmax(-1).requires_grad_(),
        torch.tensor([300]),
        [],
    )
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = lattice_free_mmi(scores, counts, targets, trigram)
        grads.append(torch.autograd.grad(loss, scores)[0])
    torch.testing.assert_close(grads[1], grads[0])


def test_a_batch_without_any_alignment_teaches_nothing(
    scores: Tensor, trigram: PhoneTrigram
) -> None:
    targets = torch.full((2, FRAMES), PADDING)
    scores.requires_grad_()
    loss = lattice_free_mmi(scores, torch.tensor([FRAMES, 2]), targets, trigram)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_utterances_without_an_alignment_are_left_out(
    scores: Tensor, trigram: PhoneTrigram
) -> None:
    targets, counts = torch.tensor([[0, 1, 1, 2]] * 2), torch.tensor([FRAMES, FRAMES])
    alone = lattice_free_mmi(scores[:1], counts[:1], targets[:1], trigram)
    both = lattice_free_mmi(scores, counts, targets, trigram)
    targets[1] = PADDING
    scores.requires_grad_()
    known = lattice_free_mmi(scores, counts, targets, trigram)
    known.backward()
    torch.testing.assert_close(known.detach(), alone)
    assert (both - alone).abs() > 1e-3
    assert scores.grad is not None
    assert scores.grad[0].any()
    assert not scores.grad[1].any()


def test_the_longest_utterance_may_be_one_that_is_left_out(
    scores: Tensor, trigram: PhoneTrigram
) -> None:
    targets, counts = torch.tensor([[0, 1, 1, 2]] * 2), torch.tensor([FRAMES - 1, FRAMES])
    alone = lattice_free_mmi(scores[:1, : FRAMES - 1], counts[:1], targets[:1], trigram)
    targets[1] = PADDING
    scores.requires_grad_()
    known = lattice_free_mmi(scores, counts, targets, trigram)
    known.backward()
    torch.testing.assert_close(known.detach(), alone)
    assert scores.grad is not None
    assert scores.grad[0, : FRAMES - 1].any()
    assert not scores.grad[0, FRAMES - 1].any()
    assert not scores.grad[1].any()
