"""Narrow norms spelled as products: the same function, and inside of the delegate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mobile_export import products
from mobile_export.executorch import Exported, export
from mobile_export.products import WIDEST_NORM, NormProducts
from mobile_export.quantize import PRECISIONS, quantize
from rdsdk.errors import ExportError
from tests.mobile_export.conftest import SMALL, make_small


@pytest.mark.parametrize("channels", [3, 48, 256])
def test_a_spelled_norm_is_the_norm(channels: int) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(channels, eps=3e-4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 5 * torch.randn(2, 7, channels) + 20
    torch.testing.assert_close(NormProducts(norm)(x), norm(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_narrow_ones_are_spelled_in_every_precision_and_wide_ones_are_not(precision: str) -> None:
    source = make_small(replace(SMALL, width=288, heads=4, ffn=32)).student
    made = quantize(source, precision)
    layer = made.encoder.layers[0]
    assert source.encoder.layers[0].attention_norm.normalized_shape == (288,)
    assert isinstance(layer.attention_norm, nn.LayerNorm)
    assert WIDEST_NORM < 288
    assert isinstance(made.encoder.frame_norm, NormProducts)
    assert made.encoder.frame_norm.shares.dtype == torch.float32
    assert all(isinstance(norm, NormProducts) for norm in made.extractor.norms)


def test_no_norm_is_left_outside_the_delegate(small_int8: Exported) -> None:
    step, forward = (small_int8.report.methods[name] for name in ("step", "forward"))
    for method in (step, forward):
        assert "native_layer_norm" not in method["outside"]
        assert "mean" not in method["outside"]
    # A cut for what is outside, and none for each of the ten norms.
    assert step["delegate_calls"] < 10


def test_a_norm_with_another_mean_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Negative control: the means of all but the last channel."""

    class Wrong(NormProducts):
        def __init__(self, source: nn.LayerNorm) -> None:
            super().__init__(source)
            self.shares[:, -1] = 0.0

    monkeypatch.setattr(products, "NormProducts", Wrong)
    with pytest.raises(ExportError, match="dB"):
        export(make_small(), tmp_path / "wrong.pte", "fp32")
    assert not list(tmp_path.iterdir())
