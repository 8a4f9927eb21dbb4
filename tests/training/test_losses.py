"""Every loss equals plain loops over layers, rows, frames and channels, and can fail."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rdsdk.errors import ConfigError
from rdsdk.training.losses import (
    frame_losses,
    layer_weights,
    matched_layers,
    relation_losses,
    temporal_gram,
)

LAYERS, ROWS, FRAMES, WIDTH = 3, 4, 7, 5
COUNTS = torch.tensor([7, 5, 6, 7])


def states(seed: int, width: int = WIDTH) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(ROWS, FRAMES, width, generator=rng) for _ in range(LAYERS)]


@pytest.fixture
def mask() -> Tensor:
    """A usual row, one all masked, one without a mask, one masked at its end."""
    mask = torch.zeros(ROWS, FRAMES, dtype=torch.bool)
    mask[0, 1:4] = True
    mask[1, :5] = True
    mask[3, 5:] = True
    return mask


def by_hand(
    ours: list[Tensor], unmasked: list[Tensor], masked: list[Tensor], mask: Tensor
) -> tuple[list[float], list[float]]:
    at_masked, at_unmasked = [], []
    for layer in range(LAYERS):
        sums = [0.0, 0.0]
        for row in range(ROWS):
            for frame in range(int(COUNTS[row])):
                hidden = bool(mask[row, frame])
                target = unmasked if hidden else masked
                error = 0.0
                for channel in range(WIDTH):
                    difference = float(ours[layer][row, frame, channel]) - float(
                        target[layer][row, frame, channel]
                    )
                    error += difference**2 / WIDTH
                sums[0 if hidden else 1] += error
        total = int(COUNTS.sum())
        at_masked.append(sums[0] / total)
        at_unmasked.append(sums[1] / total)
    return at_masked, at_unmasked


def test_frame_losses_are_those_of_plain_loops(mask: Tensor) -> None:
    ours, unmasked, masked = states(0), states(1), states(2)
    got = frame_losses(ours, unmasked, masked, mask, COUNTS)
    expected = by_hand(ours, unmasked, masked, mask)
    assert got.masked.tolist() == pytest.approx(expected[0], rel=1e-5)
    assert got.unmasked.tolist() == pytest.approx(expected[1], rel=1e-5)
    # Negative controls: the two targets swapped, the mask turned round, another divisor.
    swapped = frame_losses(ours, masked, unmasked, mask, COUNTS)
    assert not torch.allclose(swapped.masked, got.masked, rtol=1e-2)
    assert not torch.allclose(swapped.unmasked, got.unmasked, rtol=1e-2)
    turned = frame_losses(ours, unmasked, masked, ~mask, COUNTS)
    assert not torch.allclose(turned.masked, got.masked, rtol=1e-2)
    doubled = frame_losses(ours, unmasked, masked, mask, COUNTS, 2 * COUNTS.sum())
    assert torch.allclose(2 * doubled.masked, got.masked)


def test_padding_takes_no_part_in_a_frame_loss(mask: Tensor) -> None:
    ours, unmasked, masked = states(0), states(1), states(2)
    before = frame_losses(ours, unmasked, masked, mask, COUNTS)
    for state in (*ours, *unmasked, *masked):
        state[1, 5:] = float("nan")
        state[2, 6:] = 1e9
    mask[1, 5:] = True
    after = frame_losses(ours, unmasked, masked, mask, COUNTS)
    assert torch.equal(torch.stack(before), torch.stack(after))
    ours[1][1, 4, 0] += 1.0  # the last real frame does take part
    assert not torch.equal(
        torch.stack(before), torch.stack(frame_losses(ours, unmasked, masked, mask, COUNTS))
    )


def test_padding_gets_no_gradient(mask: Tensor) -> None:
    ours = [state.requires_grad_() for state in states(0)]
    losses = frame_losses(ours, states(1), states(2), mask, COUNTS)
    (losses.masked.sum() + losses.unmasked.sum()).backward()
    assert ours[0].grad is not None
    assert not ours[0].grad[1, 5:].any()
    assert ours[0].grad[1, :5].abs().min() > 0
    # Whatever a teacher says there.
    again, theirs = [state.requires_grad_() for state in states(0)], (states(1), states(2))
    for state in (*theirs[0], *theirs[1]):
        state[1, 5:] = float("nan")
    losses = frame_losses(again, *theirs, mask, COUNTS)
    relations = relation_losses(again, theirs[0], COUNTS)
    (losses.masked.sum() + losses.unmasked.sum()).backward(retain_graph=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(again, ours, strict=True))
    sum(relations).backward()
    assert all(state.grad.isfinite().all() for state in again)
    assert not again[0].grad[1, 5:].any()


def test_rows_all_masked_or_not_at_all_have_one_term_only(mask: Tensor) -> None:
    ours, unmasked, masked = states(0), states(1), states(2)
    one = [[state[1:2] for state in group] for group in (ours, unmasked, masked)]
    all_masked = frame_losses(*one, mask[1:2], COUNTS[1:2])
    assert not all_masked.unmasked.any()
    assert all_masked.masked.min() > 0
    other = [[state[2:3] for state in group] for group in (ours, unmasked, masked)]
    none_masked = frame_losses(*other, mask[2:3], COUNTS[2:3])
    assert not none_masked.masked.any()
    assert none_masked.unmasked.min() > 0


def test_without_a_masked_pass_all_frames_meet_the_unmasked_one(mask: Tensor) -> None:
    ours, unmasked = states(0), states(1)
    got = frame_losses(ours, unmasked, None, mask, COUNTS)
    assert torch.equal(
        torch.stack(got), torch.stack(frame_losses(ours, unmasked, unmasked, mask, COUNTS))
    )


def test_a_perfect_student_has_no_loss(mask: Tensor) -> None:
    unmasked, masked = states(1), states(2)
    ours = [torch.where(mask[..., None], a, b) for a, b in zip(unmasked, masked, strict=True)]
    assert not torch.stack(frame_losses(ours, unmasked, masked, mask, COUNTS)).any()


def test_layers_without_partners_are_refused(mask: Tensor) -> None:
    with pytest.raises(ConfigError, match="each of 3 student layers"):
        frame_losses(states(0), states(1)[:2], None, mask, COUNTS)
    with pytest.raises(ConfigError, match="3 student layers but 2"):
        relation_losses(states(0), states(1)[:2], COUNTS)


def test_layers_are_matched_by_depth() -> None:
    assert matched_layers(12, 12) == tuple(range(12))
    assert matched_layers(4, 12) == (2, 5, 8, 11)
    assert matched_layers(12, 24) == tuple(range(1, 24, 2))
    assert matched_layers(6, 4) == (0, 0, 1, 2, 2, 3)
    assert matched_layers(2, 12, [3, 11]) == (3, 11)
    for bad in ([3], [3, 12], [-1, 3]):
        with pytest.raises(ConfigError, match="teacher_layers"):
            matched_layers(2, 12, bad)
    assert layer_weights(3) == (0.1, 0.1, 1.0)


def relation_by_hand(ours: list[Tensor], theirs: list[Tensor]) -> tuple[float, float]:
    def gram(first: Tensor, second: Tensor, t: int, u: int) -> float:
        return sum(float(a) * float(b) for a, b in zip(first[t], second[u], strict=True)) / len(
            first[t]
        )

    def error(layer: int, other: int) -> float:
        total = 0.0
        for row in range(ROWS):
            count = int(COUNTS[row])
            for t in range(count):
                for u in range(count):
                    a = gram(ours[layer][row], ours[other][row], t, u)
                    b = gram(theirs[layer][row], theirs[other][row], t, u)
                    total += (a - b) ** 2
        return total / sum(int(count) ** 2 for count in COUNTS)

    return (
        sum(error(layer, layer) for layer in range(LAYERS)) / LAYERS,
        sum(error(layer, layer + 1) for layer in range(LAYERS - 1)) / (LAYERS - 1),
    )


def test_relation_losses_are_those_of_plain_loops_for_any_widths() -> None:
    ours, theirs = states(0, width=4), states(1, width=9)
    got = relation_losses(ours, theirs, COUNTS)
    expected = relation_by_hand(ours, theirs)
    assert [float(term) for term in got] == pytest.approx(expected, rel=1e-5)
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)
    # A layer's input and output swapped in the teacher alone is another relation.
    turned = relation_losses(ours, theirs[::-1], COUNTS)
    assert float(turned.intra_layer) != pytest.approx(float(got.intra_layer), rel=1e-3)


def test_relations_ignore_padding_and_rotations_of_the_channels() -> None:
    ours, theirs = states(0), states(1)
    before = torch.stack(relation_losses(ours, theirs, COUNTS))
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    rotated = torch.stack(relation_losses([o @ rotation for o in ours], theirs, COUNTS))
    assert torch.allclose(before, rotated, atol=1e-5)
    assert not torch.allclose(before, torch.stack(relation_losses(theirs, theirs, COUNTS)))
    for state in (*ours, *theirs):
        state[1, 5:] = float("nan")
    assert torch.equal(before, torch.stack(relation_losses(ours, theirs, COUNTS)))


def test_relations_are_exact_where_the_rest_is_in_bfloat16() -> None:
    torch.manual_seed(0)
    theirs = [torch.randn(1, 200, 64) for _ in range(2)]
    ours = [(state + 0.01 * torch.randn_like(state)).requires_grad_() for state in theirs]
    counts, grads = torch.tensor([200]), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = sum(relation_losses(ours, theirs, counts))
        grads.append(torch.autograd.grad(loss, ours))
    for exact, mixed in zip(*grads, strict=True):
        torch.testing.assert_close(mixed, exact)


def test_a_gram_matrix_says_which_comes_first() -> None:
    first, second = states(0)[0], states(1)[0]
    assert temporal_gram(first, second).shape == (ROWS, FRAMES, FRAMES)
    assert torch.allclose(
        temporal_gram(first, second), temporal_gram(second, first).transpose(1, 2), atol=1e-6
    )
    one = relation_losses([first], [second], COUNTS)
    assert not one.intra_layer
