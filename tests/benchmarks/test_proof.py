"""What the proof counts with, not what it finds: a table line, and the gaps of recordings."""

import torch

from tests.benchmarks.proof import row
from tests.benchmarks.proof_probes import GAP_FRAMES, GAP_SHARE, gaps_of


def result(frames: float, gaps: float) -> dict[str, float]:
    return {"frame_error_rate": frames, "symbol_frame_error_rate": frames + 0.1, "gaps": gaps}


def test_gaps_are_the_recordings_own_and_as_many_as_they_should_be():
    torch.manual_seed(0)
    recordings = [torch.randn(1, 320 * 400 + 80) for _ in range(20)]
    masks = torch.cat([gaps_of(each) for each in recordings])
    assert masks.shape == (20, 400)
    assert abs(float(masks.float().mean()) - GAP_SHARE) < 0.02
    assert torch.equal(masks[0], gaps_of(recordings[0].clone())[0])
    assert not torch.equal(masks[0], masks[1])
    # Whole stretches, with something heard between any two.
    edges = (masks[:, 1:] & ~masks[:, :-1]).sum(dim=1) + masks[:, 0]
    assert (masks.sum(dim=1) == edges * GAP_FRAMES).all()


def test_a_line_has_means_spreads_and_each_seed_beside_the_first_variant():
    base = row("first", [result(0.5, 0.6), result(0.4, 0.64)], 2_290_000)
    other = row("other", [result(0.45, 0.5), result(0.42, 0.5)], 2_290_000, base)
    assert base.markdown() == "| first | 2.29 | 2 | 45.0 (10.0) | 55.0 (10.0) | 62.0 (4.0) | - |"
    assert other.markdown().endswith("| 50.0 (0.0) | -5.0, +2.0 |")
    single = row("single", [result(0.5, 0.7)], 1_000_000)
    assert single.markdown() == "| single | 1.00 | 1 | 50.0 | 60.0 | 70.0 | - |"
