"""Convolutions as linear layers: the same function, and int8 that no chunk size changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mobile_export.executorch import Exported
from mobile_export.products import FrameProducts, PositionProducts, with_products
from mobile_export.programs import folded
from mobile_export.quantize import quantize
from mobile_export.verify import probe_sound, snr_db
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import Context, preset
from rdsdk.models.encoder import PositionConv
from rdsdk.runtime.program import Program
from tests.mobile_export.conftest import FULL_CONTEXT, SMALL, make_checkpoint


@pytest.mark.parametrize("kernel", [16, 32, 12, 5, 128])
@pytest.mark.parametrize("position", ["causal", "centred"])
def test_position_products_are_the_position_convolution(kernel: int, position: str) -> None:
    torch.manual_seed(0)
    config = replace(
        preset("tiny"),
        context=None,
        position_kernel=kernel,
        position=position,  # type: ignore[arg-type]
    )
    conv = PositionConv(config).eval().requires_grad_(False)
    assert conv.conv.bias is not None
    nn.init.normal_(conv.conv.bias)
    products = PositionProducts(conv)
    past = torch.randn(1, kernel - 1 if position == "causal" else 0, config.width)
    for frames in (1, 7, 16, 50):
        x_btd = torch.randn(1, frames, config.width)
        expected, kept = conv(x_btd, past)
        got, kept_too = products(x_btd, past)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kept_too, kept)
    # Negative control: the groups' weights exchanged.
    products.linears = nn.ModuleList(reversed(list(products.linears)))
    assert (products(x_btd, past)[0] - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    "config",
    [preset("tiny"), replace(preset("tiny"), context=Context(8, 16, 3)), FULL_CONTEXT],
)
def test_a_student_of_products_is_the_student(config: object) -> None:
    student = make_checkpoint(config).student  # type: ignore[arg-type]
    products = with_products(folded(student.copy()))
    assert isinstance(products.encoder.position_conv, PositionProducts)
    made = [isinstance(conv, FrameProducts) for conv in products.extractor.convs]
    assert made == [student.config.extractor_norm == "layer", *[True] * 8]
    waveform = torch.from_numpy(probe_sound(1.3))[None, : 320 * 64 + 80]
    with torch.no_grad():
        expected, got = student(waveform)[0], products(waveform)[0]
        torch.testing.assert_close(got.hidden[-1], expected.hidden[-1], atol=1e-4, rtol=1e-4)
        if student.config.context is None:
            return
        calls = [student(waveform, followed=True), products(waveform, followed=True)]
        (expected, then), (got, state) = calls
    torch.testing.assert_close(got.hidden[-1], expected.hidden[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.positions, then.positions, atol=1e-4, rtol=1e-4)


def test_int8_rounds_all_but_the_first_convolution(streaming: Checkpoint) -> None:
    twin = quantize(streaming.student, "int8")
    left = {
        name.removesuffix(".linears.0").removesuffix(".linears.1")
        for name, module in twin.named_modules()
        if isinstance(module, nn.Linear) and type(module.weight) is nn.Parameter
    }
    # The first reads samples, and the second of so small a student eight channels.
    assert left == {"extractor.convs.0", "extractor.convs.1"}


def test_int4_rounds_more_where_inputs_divide(streaming: Checkpoint) -> None:
    waveform = torch.from_numpy(probe_sound(1.0))[None, : 320 * 48 + 80]
    noise = {}
    with torch.no_grad():
        expected = streaming.student(waveform)[0].hidden[-1].numpy()
        for precision in ("int8", "int4"):
            got = quantize(streaming.student, precision)(waveform)[0].hidden[-1].numpy()
            noise[precision] = snr_db(expected, got)
    assert noise["int4"] + 6 < noise["int8"]


def test_int8_is_the_same_at_every_chunk_size(small_int8: Exported, small_fp32: Exported) -> None:
    sound = probe_sound(3.0, seed=3)
    assert SMALL.context is not None
    chunk = 320 * SMALL.context.chunk_frames
    overlap = SMALL.overlap_samples
    waveform = sound[: chunk * 12 + overlap]

    def streamed(made: Exported, chunks: list[int]) -> np.ndarray:
        program, state, heard, at = Program(made.path), None, [], 0
        for count in chunks:
            output = program.forward(waveform[at : at + count * chunk + overlap], state)
            state, at = output.state, at + count * chunk
            heard.append(output.hidden)
        return np.concatenate(heard)

    whole = streamed(small_int8, [12])
    for chunks in ([1] * 12, [3, 1, 5, 2, 1]):
        # What differs is a value that lay between two steps of rounding and fell to the other.
        assert snr_db(whole, streamed(small_int8, chunks)) > 60
    # Negative control: rounding as such is further away.
    assert snr_db(streamed(small_fp32, [12]), whole) < 50
