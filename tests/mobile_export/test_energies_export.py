"""A student that hears log-mel energies, lowered and proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobile_export.coreml import export_coreml
from mobile_export.executorch import export
from mobile_export.programs import methods
from mobile_export.verify import examine
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.energies import constant_values
from tests.mobile_export.conftest import SMALL, make_small


def hearing() -> Checkpoint:
    made = make_small(replace(SMALL, mel_bands=20))
    assert made.student.energies is not None
    torch.nn.init.normal_(made.student.energies.join.weight, std=0.3)
    return made


def test_an_int8_artefact_hears_energies_exactly(tmp_path: Path) -> None:
    source = hearing()
    made = export(source, tmp_path / "hearing.pte", "int8")
    assert made.report.agreement["worst_snr_db"] > 25
    file = made.report.file
    # Spectra and filters are in float32, once, and what is learnt is in int8.
    assert 4 * constant_values(20) < file["weight_bytes"]
    assert (
        file["weight_bytes"]
        < 4 * constant_values(20) + 2 * made.report.file["floor_bytes"] + 65_536
    )
    # Negative control: another bank of filters is another model.
    other = hearing()
    other.student.energies.bank.copy_(other.student.energies.bank.roll(1, dims=0))
    report = examine(other, made.path)
    assert not report.passed
    assert any("dB" in fault for fault in report.faults)


def test_features_hear_them_too() -> None:
    source = hearing()
    made = methods(source.student, ["forward", "features"])
    waveform, *state = made["features"].example
    waveform = 0.1 * torch.randn_like(waveform)
    hidden, *_ = made["features"].module(waveform, *state)
    _, expected, *_ = made["forward"].module(waveform, *state)
    torch.testing.assert_close(hidden, expected)


def test_no_core_ml_package_of_them_yet(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be a Core ML package yet"):
        export_coreml(hearing(), tmp_path / "hearing.mlpackage")
    assert not list(tmp_path.iterdir())
