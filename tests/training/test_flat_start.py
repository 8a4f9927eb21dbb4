from __future__ import annotations

import torch

from rdsdk.data.alignment import PADDING
from rdsdk.training.flat_start import straight_alignment


def test_the_text_lies_over_the_audible_part_and_blank_around_it() -> None:
    waveforms = torch.zeros(2, 320 * 12 + 80)
    waveforms[0, 320 * 3 + 80 : 320 * 9] = 0.3  # frames 3 to 8 hear it
    targets = straight_alignment(
        waveforms,
        torch.tensor([12, 7]),
        torch.tensor([[5, 6, 7], [0, 0, 0]]),
        torch.tensor([3, 0]),
        blank=0,
    )
    assert targets[0].tolist() == [0, 0, 0, 5, 5, 6, 6, 7, 7, 0, 0, 0]
    assert targets[1].tolist() == [0] * 7 + [PADDING] * 5


def test_what_lies_beyond_a_rows_count_is_not_heard() -> None:
    waveforms = torch.full((1, 320 * 6 + 80), 0.1)
    waveforms[:, 320 * 4 + 80 :] = 5.0
    targets = straight_alignment(
        waveforms, torch.tensor([4]), torch.tensor([[3, 4]]), torch.tensor([2]), blank=9
    )
    assert targets.tolist() == [[3, 3, 4, 4, PADDING, PADDING]]
