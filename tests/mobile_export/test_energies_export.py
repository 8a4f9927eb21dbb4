"""A student that hears log-mel energies, lowered and proven."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobile_export import coreml_conversion
from mobile_export.agreement import probe_sound, snr_db
from mobile_export.coreml import ExportedPackage, export_coreml, reference
from mobile_export.coreml_delegate import export_coreml_pte
from mobile_export.coreml_interpreter import Interpreter
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
        < 2 * made.report.file["floor_bytes"] - 4 * constant_values(20) + 65_536
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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ExportedPackage:
    return export_coreml(hearing(), tmp_path_factory.mktemp("hearing") / "hearing.mlpackage")


def test_a_core_ml_package_hears_them_in_float32(package: ExportedPackage) -> None:
    assert package.report["precision"] == "int8"
    assert package.report["float32_agreement"]["step"]["worst_snr_db"] > 90
    assert package.report["agreement"]["worst_snr_db"] > 40
    file = package.report["file"]
    assert 4 * constant_values(20) < file["weight_bytes"] < 1.1 * file["floor_bytes"]
    interpreter = Interpreter(package.path)
    energies = hearing().student.energies
    assert energies is not None
    for function in interpreter.functions:
        constants = interpreter.constants(function)
        spectra = [value for value in constants.values() if shape_of(value) == (484, 1, 1, 400)]
        assert [torch.equal(value[:, 0, 0], energies.long) for value in spectra] == [True]


def shape_of(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def test_soft_sound_is_heard_as_torch_hears_it(package: ExportedPackage) -> None:
    student = reference(hearing())
    waveform = 3e-3 * torch.from_numpy(probe_sound(2.0))[None]
    with torch.no_grad():
        expected = student(waveform)[0].hidden[-1]
        silence = student(torch.zeros_like(waveform))[0].hidden[-1]
    got, _ = Interpreter(package.path).run("forward", {"waveform": waveform})
    agreement = snr_db(expected.numpy(), got["hidden"].numpy())
    # Negative control: what is there to hear makes a difference.
    assert agreement > 40 > 10 + snr_db(expected.numpy(), silence.numpy())


def test_powers_in_float16_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_conversion, "_makes_energies", lambda operation: False)
    with pytest.raises(ExportError, match=r"types of powers \{'FLOAT16'\}"):
        export_coreml(hearing(), tmp_path / "hearing.mlpackage", functions=["step"])
    assert not list(tmp_path.iterdir())


def test_core_mls_delegate_takes_them_in_float32_alone(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="soft powers are zero in float16"):
        export_coreml_pte(hearing(), tmp_path / "hearing.pte", "fp16")
    made = export_coreml_pte(hearing(), tmp_path / "hearing.pte", "fp32")
    assert made.report["agreement"]["worst_snr_db"] > 90
