"""Linear CKA and projection errors against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rdsdk.errors import DataError
from rdsdk.evaluation.layer_similarity import LinearCkaSum, ProjectionErrorSum, same_depth


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the Gram matrices of all frames, centred (arXiv 1905.00414, equation 3)."""
    frames = len(x)
    centre = np.eye(frames) - 1 / frames
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def layers(count: int, frames: int, width: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, width, width, generator=generator)
    return list(torch.randn(count, frames, width, generator=generator) @ mixed + 5.0)


def test_cka_of_all_pairs_over_several_recordings() -> None:
    student, teacher = layers(2, 60, 4, 0), layers(3, 60, 6, 1)
    teacher[1] = teacher[1] + 2 * student[0][:, [0, 1, 2, 3, 0, 1]]
    total = LinearCkaSum(2, 4, 3, 6)
    for part in (slice(0, 7), slice(7, 40), slice(40, 60)):
        total.add([x[part] for x in student], [y[part] for y in teacher])
    found = total.result()
    assert found.shape == (2, 3)
    for one in range(2):
        for other in range(3):
            expected = cka(student[one].double().numpy(), teacher[other].double().numpy())
            assert found[one, other] == pytest.approx(expected, abs=1e-6)
    assert found[0, 1] > 2 * found[1, 1]


def test_cka_ignores_rotation_scale_and_offset_and_sees_another_space() -> None:
    (x,) = layers(1, 400, 8, 2)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))[0]
    total = LinearCkaSum(1, 8, 3, 8)
    total.add([x], [-3.0 * x @ rotation + 100.0, layers(1, 400, 8, 4)[0], torch.ones(400, 8)])
    same, other, constant = total.result()[0]
    assert same == pytest.approx(1, abs=1e-6)
    assert other < 0.2
    assert constant == 0


def test_projection_errors_by_hand() -> None:
    predicted, teacher = layers(2, 30, 5, 5), layers(2, 30, 5, 6)
    total = ProjectionErrorSum()
    for part in (slice(0, 11), slice(11, 30)):
        total.add([p[part] for p in predicted], [y[part] for y in teacher])
    found = total.result()
    for layer in range(2):
        p, y = predicted[layer].double().numpy(), teacher[layer].double().numpy()
        norms = np.linalg.norm(p, axis=1) * np.linalg.norm(y, axis=1)
        assert found.cosine[layer] == pytest.approx(((p * y).sum(1) / norms).mean())
        assert found.mse[layer] == pytest.approx(((p - y) ** 2).mean())
        variance = y.var(axis=0).mean()
        assert found.relative_mse[layer] == pytest.approx(((p - y) ** 2).mean() / variance)


def test_predicting_the_mean_is_a_relative_error_of_one() -> None:
    teacher = layers(1, 50, 5, 7)
    total = ProjectionErrorSum()
    total.add([teacher[0].mean(0, keepdim=True).expand(50, 5)], teacher)
    assert total.result().relative_mse[0] == pytest.approx(1, abs=1e-6)


def test_too_little_is_an_error() -> None:
    with pytest.raises(DataError, match="fewer than two frames"):
        LinearCkaSum(1, 2, 1, 2).result()
    with pytest.raises(DataError, match="no frame"):
        ProjectionErrorSum().result()


def test_layers_at_the_same_depth() -> None:
    assert same_depth(12, 12) == list(range(12))
    assert same_depth(12, 24) == list(range(1, 24, 2))
    assert same_depth(4, 12) == [2, 5, 8, 11]
