"""The parts of the comparison that decide what its figures mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rdsdk
from rdsdk.models.cost import parameter_count
from rdsdk.runtime.recognizer import bundled_models
from tests.benchmarks import comparison, exports
from tests.benchmarks.comparison import ANCHOR, contenders_of
from tests.benchmarks.comparison_report import draw, markdown
from tests.benchmarks.contenders import RUNTIMES, STREAMED, Contender, Waiting, waveform_of
from tests.benchmarks.shapes import SHAPES, sound_samples, total_macs


def test_the_shapes_are_the_published_ones():
    assert parameter_count(SHAPES["HuBERT Base"]) == 94_371_712
    assert parameter_count(SHAPES["DistilHuBERT"]) == 23_492_992
    assert parameter_count(SHAPES["ARMHuBERT"]) == 22_015_552
    assert parameter_count(SHAPES["ARMHuBERT-S"]) == 18_403_552
    for name in ("ARMHuBERT", "ARMHuBERT-S"):
        reusing, plain = SHAPES[name], SHAPES[f"{name} without reuse"]
        assert (len(reusing.owners), len(plain.owners)) == (6, 12)
        assert (reusing.width, reusing.ffn, reusing.convs) == (plain.width, plain.ffn, plain.convs)
        assert total_macs(name, 160_080) < total_macs(f"{name} without reuse", 160_080)


def test_every_group_has_the_anchor_first_and_once(tmp_path):
    for group, models in comparison.GROUPS.items():
        found = contenders_of(group, list(RUNTIMES), tmp_path)
        assert found[0] == ANCHOR
        assert len(found) == len(set(found))
        assert {each.model for each in found} == {*models, ANCHOR.model}
        streamed = {each.model for each in found if each.runtime == STREAMED}
        assert streamed == (set() if group == "HuBERT" else set(models))
    only = contenders_of("ARMHuBERT", [".pte int8"], tmp_path)
    assert [str(each) for each in only[1:]] == [
        "ARMHuBERT, .pte int8",
        "ARMHuBERT without reuse, .pte int8",
    ]


def test_the_sound_is_whole_chunks():
    assert sound_samples(10.0) == 32 * 16 * 320 + 80
    assert sound_samples(0.32) == 16 * 320 + 80
    assert sound_samples(0.33) == 32 * 320 + 80


def test_a_changed_source_makes_another_file(tmp_path, monkeypatch):
    before = exports.file_of(tmp_path, "pte-int8", "ARMHuBERT")
    assert before == exports.file_of(tmp_path, "pte-int8", "ARMHuBERT")
    monkeypatch.setattr(exports, "version", lambda name: "99")
    assert before != exports.file_of(tmp_path, "pte-int8", "ARMHuBERT")


def test_a_contender_takes_turns_and_computes_what_the_program_does(tmp_path):
    digits = bundled_models()["digits"]
    chunk = rdsdk.load(digits).card.chunk_samples
    waiting = Waiting(Contender("digits", STREAMED, str(digits)), 1, 2 * chunk + 80, tmp_path)
    try:
        turn = waiting.turn(0.0001)
        assert len(turn["passes"]) == 1
        assert len(turn["steps"]) == 2
        assert 0 < sum(turn["steps"]) <= turn["passes"][0]
        assert len(waiting.turn(3 * turn["passes"][0])["passes"]) > 1
    finally:
        waiting.stop()
    program = rdsdk.load(digits)._program
    hidden = program.forward(waveform_of(2 * chunk + 80)).hidden
    np.testing.assert_allclose(waiting.hidden, hidden, atol=0.05 * np.abs(hidden).max())


def test_a_contender_that_fails_says_why(tmp_path):
    with pytest.raises(SystemExit, match="no such file"):
        Waiting(Contender("x", ".pte int8", str(tmp_path / "x.pte")), 1, 16_080, tmp_path)


def test_float32_that_computes_something_else_is_no_contender():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5, 4))

    def standing(runtime: str, values: np.ndarray) -> Any:
        return SimpleNamespace(contender=Contender("m", runtime), hidden=values)

    eager = standing("torch eager", hidden)
    close = standing("onnxruntime fp32", hidden * (1 + 1e-5))
    far = standing("onnxruntime fp32", hidden * 1.01)
    rounded = standing("onnxruntime int8", hidden * 1.01)
    assert comparison._agreement(close, [eager, close]) == pytest.approx(100, abs=0.1)
    assert comparison._agreement(rounded, [eager, rounded]) == pytest.approx(40, abs=0.1)
    with pytest.raises(SystemExit, match=r"not the model of torch eager: 40\.0 dB"):
        comparison._agreement(far, [eager, far])


def row(model: str, runtime: str, factors: list[float], **changes: Any) -> dict[str, Any]:
    speedup = np.divide([0.4, 0.2, 0.2], factors)
    return {
        "model": model,
        "runtime": runtime,
        "size_mb": None,
        "real_time_factor": float(np.median(factors)),
        "real_time_factors": factors,
        "speedup": float(np.median(speedup)),
        "speedup_quartiles": np.percentile(speedup, (25, 75)).tolist(),
        "step": None,
        "snr_db": None,
        "load_seconds": 1.0,
        "first_seconds": 1.0,
        "peak_mb": 300.0,
        "macs": 10**9,
        **changes,
    }


def group(*rows: dict[str, Any], load: float = 1.0, clock: str = "wall") -> dict[str, Any]:
    return {
        "threads": 1,
        "sound_seconds": 10.24,
        "rounds": 3,
        "clock": clock,
        "machine": {"processor": "P", "usable_cores": 2, "versions": {"torch": "2"}},
        "load_average_after": load,
        "rows": [row("HuBERT Base", "torch eager", [0.4, 0.2, 0.2]), *rows],
    }


# In the first round the machine was half as fast: ratios of the same round do not show it.
FAST = row("ARMHuBERT", ".pte int8", [0.02, 0.01, 0.01], macs=9 * 10**8)
PLAIN = row("ARMHuBERT without reuse", ".pte int8", [0.025, 0.0125, 0.0125])
ONNX = row("ARMHuBERT", "onnxruntime int8", [0.03, 0.015, 0.015], macs=9 * 10**8)


def test_ratios_are_of_the_same_round():
    text = markdown([group(FAST, PLAIN, ONNX)])
    assert "| ARMHuBERT | 0.9 G | - | 13.3 (0.0150) | 20.0 (0.0100) |" in text
    assert "| ARMHuBERT, .pte int8 | 10.0% | 20.0% |" in text
    assert "20.0 times (quartiles 20.0 to 20.0) HuBERT Base, at least 12 wanted: met" in text
    assert "1.50 times as fast as onnxruntime int8." in text
    assert "quiet" not in text


def test_what_is_missed_is_said():
    slow = row("ARMHuBERT", ".pte int8", [0.04, 0.02, 0.02])
    text = markdown([group(slow, ONNX, load=3.0)])
    assert "at least 12 wanted: **missed**" in text
    assert "0.75 times as fast as onnxruntime int8, **slower**." in text
    assert "**Not a quiet machine**: its load was 2.0 above" in text
    assert "quiet" not in markdown([group(slow, load=3.0, clock="cpu")])


def test_it_is_drawn(tmp_path: Path):
    draw([group(FAST, PLAIN, ONNX)], tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 5_000
