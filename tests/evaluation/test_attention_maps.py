"""Similarity of maps and the reuse it suggests, against plain loops and models of known maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from rdsdk.errors import DataError
from rdsdk.evaluation.attention_analysis import analyze_attention
from rdsdk.evaluation.attention_maps import (
    MapSimilaritySum,
    best_grouping,
    best_patterns,
    paired_heads,
    reuse_patterns,
    same_heads,
)
from rdsdk.models.config import EncoderConfig, extractor_convs, reuse_pattern
from rdsdk.models.student import Student
from rdsdk.training.student_teacher import StudentTeacher


def random_maps(layers: int, heads: int, frames: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(layers, heads, frames, frames, generator=generator)
    return list(logits.softmax(-1))


def test_the_means_are_those_of_plain_loops() -> None:
    # Two recordings of different lengths, one longer than a block.
    recordings = [random_maps(2, 3, 5, 0), random_maps(2, 3, 130, 1)]
    total = MapSimilaritySum()
    for maps in recordings:
        total.add(maps)
    similarity = total.result()
    assert similarity.frames == 135
    for place in [(0, 1, 1, 2), (1, 0, 0, 0), (1, 2, 1, 2)]:
        layer, head, other, other_head = place
        cosine = kl = flat = 0.0
        for maps in recordings:
            one = maps[layer][head].double().numpy()
            two = maps[other][other_head].double().numpy()
            for p, q in zip(one, two, strict=True):
                cosine += p @ q / np.sqrt((p @ p) * (q @ q))
                kl += (p * np.log(p / q)).sum()
                flat += (p * np.log(p * len(p))).sum()
        assert similarity.cosine[place] == pytest.approx(cosine / 135, abs=1e-5)
        assert similarity.kl[place] == pytest.approx(kl / 135, abs=1e-5)
        assert similarity.flat_kl[layer, head] == pytest.approx(flat / 135, abs=1e-5)


def test_flat_maps_and_maps_of_one_frame_each() -> None:
    flat = torch.full((1, 10, 10), 0.1)
    diagonal = torch.eye(10)[None]
    total = MapSimilaritySum()
    total.add([flat, diagonal])
    similarity = total.result()
    np.testing.assert_allclose(similarity.flat_kl[:, 0], [0, np.log(10)], atol=1e-6)
    assert similarity.layer_cosine[0, 1] == pytest.approx(10**-0.5, abs=1e-6)
    assert similarity.layer_kl[1, 0] == pytest.approx(np.log(10), abs=1e-6)
    # Weights of 0 count as 1e-8, so that this is finite.
    assert similarity.layer_kl[0, 1] == pytest.approx(-np.log(10) - 0.9 * np.log(1e-8), abs=1e-4)


def test_heads_are_paired_one_to_one_whatever_their_order() -> None:
    maps = random_maps(1, 4, 20, 2)[0]
    order = torch.tensor([2, 0, 3, 1])
    total = MapSimilaritySum()
    total.add([maps, maps[order]])
    similarity = total.result()
    assert similarity.layer_cosine[0, 1] == pytest.approx(1, abs=1e-6)
    assert similarity.layer_kl[1, 0] == pytest.approx(0, abs=1e-6)
    # Negative controls: by number they differ, and one head cannot serve for all.
    assert similarity.same_head_cosine[0, 1] < 0.6
    assert similarity.same_head_kl[0, 1] > 1
    total = MapSimilaritySum()
    total.add([maps, maps[[0, 0, 0, 0]]])
    assert total.result().layer_cosine[0, 1] < 0.7


def test_pairing_by_brute_force() -> None:
    value = np.random.default_rng(0).random((1, 3, 1, 3))
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    means = [np.mean([value[0, head, 0, order[head]] for head in range(3)]) for order in orders]
    assert paired_heads(value, maximise=True)[0, 0] == pytest.approx(max(means))
    assert paired_heads(value, maximise=False)[0, 0] == pytest.approx(min(means))
    assert same_heads(value)[0, 0] == pytest.approx(means[0])


def groupings(layers: int, owners: int, first: int = 0) -> Iterator[tuple[int, ...]]:
    """Every way to cut layers into contiguous groups owned by their first layer."""
    if owners == 1:
        yield (first,) * layers
        return
    for size in range(1, layers - owners + 2):
        for rest in groupings(layers - size, owners - 1, first + size):
            yield (first,) * size + rest


@pytest.mark.parametrize("owners", range(1, 8))
def test_the_best_grouping_by_brute_force(owners: int) -> None:
    for seed in range(5):
        cost = np.random.default_rng(seed).random((7, 7))
        np.fill_diagonal(cost, 0)

        def total(map_owner: tuple[int, ...], cost: np.ndarray = cost) -> float:
            return float(sum(cost[layer, owner] for layer, owner in enumerate(map_owner)))

        every = list(groupings(7, owners))
        found = best_grouping(cost, owners)
        assert found in every
        assert total(found) == pytest.approx(min(total(one) for one in every))


def test_nothing_to_compare_is_an_error() -> None:
    total = MapSimilaritySum()
    total.add([torch.ones(2, 1, 1)])
    with pytest.raises(DataError, match="no recording has two frames"):
        total.result()


GROUPS = (0, 0, 0, 3, 3, 5)


def teacher_of(groups: tuple[int, ...], heads_moved: bool = False) -> StudentTeacher:
    """Six layers that leave the hidden state as it is, so that layers of a group, which share query
    and key weights, have the very same map."""
    torch.manual_seed(0)
    config = EncoderConfig(
        extractor_convs(8, 16, 24),
        width=32,
        ffn=8,
        heads=4,
        map_owner=reuse_pattern("none", 6),
        extractor_norm="layer",
        position_kernel=16,
        position_groups=4,
    )
    student = Student(config)
    with torch.no_grad():
        for layer, owner in enumerate(groups):
            own = student.encoder.layers[layer]
            for branch in (own.attention_output.output, own.ffn_out):
                branch.weight.zero_()
            for kind in ("query", "key"):
                linear = getattr(own.attention_map, kind)
                if owner == layer:
                    linear.weight.mul_(60.0)
                else:
                    source = getattr(student.encoder.layers[owner].attention_map, kind)
                    linear.load_state_dict(source.state_dict())
                    if heads_moved:
                        linear.weight.copy_(linear.weight.roll(8, dims=0))
                        linear.bias.copy_(linear.bias.roll(8, dims=0))
    return StudentTeacher(student.eval(), "known")


def recordings() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (0.1 * torch.randn(1, samples, generator=generator), torch.tensor([samples]))
        for samples in (16_000, 9_000)
    ]


@pytest.mark.parametrize("heads_moved", [False, True])
def test_a_model_with_shared_maps_gets_just_that_grouping(heads_moved: bool) -> None:
    analysis = analyze_attention(teacher_of(GROUPS, heads_moved), recordings())
    assert analysis.recordings == 2
    assert analysis.similarity.frames == 49 + 27
    (found,) = [pattern for pattern in analysis.best if pattern.owners == 3]
    assert found.map_owner == GROUPS
    assert found.kl == pytest.approx(0, abs=1e-4)
    assert found.cosine == pytest.approx(1, abs=1e-4)
    cosine = analysis.similarity.layer_cosine
    assert cosine[1, 0] == pytest.approx(1, abs=1e-4)
    assert cosine[3, 2] < 0.8
    assert (analysis.similarity.same_head_cosine[1, 0] < 0.8) == heads_moved
    # 3by2 is as good up to layer 5, whose own map it leaves unused; 2by3 cuts groups apart.
    even = {pattern.name: pattern for pattern in analysis.even}
    assert even["3by2"].map_owner == (0, 0, 0, 3, 3, 3)
    assert 0.05 < even["3by2"].kl < even["2by3"].kl < even["6by1"].kl
    assert found.share < 0.01 < even["3by2"].share
    report = analysis.report()[-1]
    assert "loses" in str(report)


def test_a_model_whose_layers_have_nothing_in_common_is_told_apart() -> None:
    analysis = analyze_attention(teacher_of((0, 1, 2, 3, 4, 5)), recordings())
    cosine = analysis.similarity.layer_cosine
    assert cosine[~np.eye(6, dtype=bool)].max() < 0.8
    (found,) = [pattern for pattern in analysis.best if pattern.owners == 3]
    assert found.kl > 0.2
    assert found.share > 1
    assert "no better than a flat one" in str(analysis.report()[-1])


def test_patterns_of_twelve_layers_are_the_papers() -> None:
    total = MapSimilaritySum()
    total.add(random_maps(12, 2, 6, 3))
    names = [pattern.name for pattern in reuse_patterns(total.result())]
    assert names == ["2by6", "3by4", "4by3", "6by2", "12by1"]
    for pattern in reuse_patterns(total.result())[:4]:
        assert pattern.map_owner == reuse_pattern(pattern.name)
    assert [pattern.owners for pattern in best_patterns(total.result())] == list(range(11, 0, -1))
