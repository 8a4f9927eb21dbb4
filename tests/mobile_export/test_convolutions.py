"""The extractor as image convolutions: the same function, for both norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mobile_export.convolutions import with_convolutions
from mobile_export.programs import folded
from tests.mobile_export.conftest import FULL_CONTEXT, STREAMING, make_checkpoint


@pytest.mark.parametrize("config", [FULL_CONTEXT, STREAMING, replace(STREAMING, conv_bias=True)])
@pytest.mark.parametrize("samples", [400, 719, 9_000, 16_080])
def test_it_is_the_same_extractor(config: object, samples: int) -> None:
    source = make_checkpoint(config).student  # type: ignore[arg-type]
    made = with_convolutions(folded(source.copy()))
    waveform = 0.1 * torch.randn(2, samples)
    with torch.no_grad():
        expected, got = source.extractor(waveform), made.extractor(waveform)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        # Negative control: another sound.
        assert (made.extractor(waveform.flip(0)) - expected).abs().max() > 1e-3


def test_weights_keep_their_names_and_values() -> None:
    source = make_checkpoint(FULL_CONTEXT).student
    made = with_convolutions(folded(source.copy())).extractor.state_dict()
    kept = source.extractor.state_dict()
    assert made.keys() == kept.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in kept.items())
